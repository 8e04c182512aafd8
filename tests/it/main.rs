//! The tests that go through the front door: public interfaces, vectors, sockets.

mod protocol;
