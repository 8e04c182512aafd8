//! A disk that answers no read holds up those who need it, and nobody else.
//!
//! No async worker may wait for it: the one that waits for the network wakes up for one connection
//! and hands the others to nobody while it is stuck, so that all of an idle process would be silent.

use std::fs::File;
use std::io::{Error, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use alipay_sidecar::clock::SystemClock;
use alipay_sidecar::config::Config;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::seal::StoreKey;
use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::support::raw::authority;
use crate::support::{ALIAS, PATIENCE, TestSidecar};

/// How long everything is left alone, so that every worker sleeps: nothing tells when they do. Too
/// short a time makes the test see less, and never fail.
const QUIET: Duration = Duration::from_millis(200);

/// Whether the disk answers. Clones share it.
#[derive(Debug, Clone, Default)]
struct Switch(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    is_stuck: bool,
    /// Reads that wait.
    waiting: usize,
}

impl Switch {
    fn set(&self, is_stuck: bool) {
        self.change(|state| state.is_stuck = is_stuck);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let (state, changed) = &*self.0;
        change(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_all();
    }

    fn wait_while(&self, goes_on: impl FnMut(&mut State) -> bool) {
        let (state, changed) = &*self.0;
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(state, PATIENCE, goes_on);
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        assert!(!waited.timed_out(), "nothing changed in {PATIENCE:?}");
    }
}

/// A file that is read once its switch lets it.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    switch: Switch,
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.switch.change(|state| state.waiting += 1);
        self.switch.wait_while(|state| state.is_stuck);
        self.switch.change(|state| state.waiting -= 1);
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), Error> {
        self.file.close()
    }
}

fn store_on(config: &Config, switch: &Switch) -> EmbeddedStore {
    let (path, switch) = (config.store.path.clone(), switch.clone());
    let key = config.store.key.as_ref().expect("a key");
    let options = OpenOptions {
        path: path.clone(),
        key: StoreKey::from_base64(key.expose()).expect("a key"),
        // Every look-up meets the disk.
        cache_bytes: 0,
        clock: Arc::new(SystemClock),
    };
    let disk = move || {
        let file = File::options().read(true).write(true).open(&path)?;
        Ok(Disk {
            file: FileBackend::new(file).map_err(Error::other)?,
            switch: switch.clone(),
        })
    };
    EmbeddedStore::open_on(options, disk).expect("opened")
}

/// One request over a connection of its own, by a thread that isn't the runtime's: its status line.
fn asked(base: &str, head: &str) -> JoinHandle<String> {
    let (address, head) = (authority(base).to_owned(), head.to_owned());
    std::thread::spawn(move || {
        let mut stream = TcpStream::connect(&address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = format!("{head}\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.lines().next().unwrap_or_default().to_owned()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_need_the_disk_is_answered_while_it_is_stuck() {
    let switch = Switch::default();
    let sidecar = TestSidecar::start_built(
        // Nothing but the calls of this test looks into the store.
        |config| config.delivery.url = None,
        |config, builder| builder.store(Arc::new(store_on(config, &switch))),
    )
    .await;
    let (proxy, admin) = (sidecar.proxy.clone(), sidecar.admin.clone());
    // What blocks must not hold a worker up.
    let looked = tokio::task::spawn_blocking(move || {
        for calls in 1..=8 {
            std::thread::sleep(QUIET);
            switch.set(true);
            let head = format!(
                "POST /v2/alipay.trade.query HTTP/1.1\r\nAlipay-Merchant: {ALIAS}\r\nContent-Length: 0"
            );
            let waiting: Vec<_> = (0..calls).map(|_| asked(&proxy, &head)).collect();
            switch.wait_while(|state| state.waiting == 0);
            for (base, path, expected) in [(&admin, "/livez", "200"), (&proxy, "/nowhere", "404")] {
                let status = asked(base, &format!("GET {path} HTTP/1.1")).join();
                let status = status.unwrap_or_else(|_| "no answer".to_owned());
                assert_eq!(status.split(' ').nth(1), Some(expected), "{path}: {status}");
            }
            assert!(waiting.iter().all(|call| !call.is_finished()));
            switch.set(false);
            for call in waiting {
                let status = call.join().expect("an answer");
                assert_eq!(status, "HTTP/1.1 200 OK");
            }
        }
    });
    looked.await.expect("all were answered");
}
