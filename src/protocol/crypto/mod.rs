//! RSA behind two traits.
