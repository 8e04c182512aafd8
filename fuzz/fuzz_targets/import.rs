//! Imports: what is taken is lines of JSON objects with known members, each merchant once; a
//! fault names its line, and what stands before that line is good.
#![no_main]

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use alipay_sidecar::admin::error::AdminError;
use alipay_sidecar::admin::import::{ImportMode, import};
use alipay_sidecar::clock::SystemClock;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar_fuzz::oracle::Object;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
});

static STORE: LazyLock<EmbeddedStore> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("import-{}.redb", std::process::id()));
    let key = StoreKey::generate();
    EmbeddedStore::create(&path, &key).expect("a new store");
    let options = OpenOptions {
        path,
        key,
        cache_bytes: 1 << 20,
        clock: Arc::new(SystemClock),
    };
    EmbeddedStore::open(options).expect("it opens")
});

const NOW: i64 = 1_795_000_000_000;

fuzz_target!(|data: &[u8]| {
    let tried = RUNTIME.block_on(import(&*STORE, NOW, data, ImportMode::DryRun));
    match tried {
        Ok(report) => {
            assert!(report.dry_run && report.stale == 0);
            assert_eq!(report.imported, merchants(data));
        }
        Err(AdminError::Lines(bad)) => {
            let lines = data.split(|byte| *byte == b'\n').count();
            let told: Vec<_> = bad.iter().map(|(line, _)| line).collect();
            assert!(told.is_sorted_by(|a, b| a < b), "{bad}");
            assert!(told.iter().all(|line| (1..=lines).contains(line)), "{bad}");
            let line = told[0];
            // Everything before it is good.
            let mut before = data.split_inclusive(|byte| *byte == b'\n').take(line - 1);
            let before = before.by_ref().collect::<Vec<_>>().concat();
            assert!(
                RUNTIME
                    .block_on(import(&*STORE, NOW, &before, ImportMode::DryRun))
                    .is_ok()
            );
        }
        Err(other) => panic!("{other}"),
    }
});

/// Counts the merchants of an import that was taken.
fn merchants(data: &[u8]) -> usize {
    let mut seen = HashSet::new();
    for line in data.split(|byte| *byte == b'\n') {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let object = Object::parse(line).expect("an object");
        let names: HashSet<_> = object.0.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), object.0.len(), "a member twice");
        let id = |name: &str| {
            let id = object.only(name).expect("an id");
            serde_json::from_str::<String>(id).expect("a text")
        };
        assert!(object.only("app_auth_token").is_some());
        assert!(
            seen.insert((id("app_id"), id("auth_app_id"))),
            "a merchant twice"
        );
    }
    seen.len()
}
