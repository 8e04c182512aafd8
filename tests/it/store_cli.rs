//! `store …` of the program, beside a running sidecar and without one.

use std::os::unix::fs::PermissionsExt;

use alipay_sidecar::simulator::DEFAULT_APP_ID;
use alipay_sidecar::store::seal::StoreKey;
use serde_json::Value;

use crate::cli_live::World;

/// The second merchant of `merchants.jsonl`.
const DAMAGED: &str = "2021000000001002";

fn mode(world: &World, name: &str) -> u32 {
    let file = std::fs::metadata(world.path().join(name)).expect("there");
    file.permissions().mode() & 0o777
}

fn stats(world: &World) -> Value {
    let said = world.check(&["store", "stats", "--json"], 0, &[]);
    serde_json::from_str(&said).expect("JSON")
}

#[test]
fn a_running_sidecars_store_is_looked_at_and_backed_up_but_not_replaced() {
    let world = World::start();
    let (sidecar, _) = world.run();
    world.check(&["merchant", "import", "merchants.jsonl"], 0, &[]);
    world.check(
        &["store", "stats"],
        0,
        &["2 authorized", "schema", "free", "merchants"],
    );
    let live = stats(&world);
    assert_eq!(live["merchants_authorized"], 2);
    assert_eq!(live["worth_compacting"], false);
    world.check(&["store", "check"], 0, &["every index agrees"]);
    world.check(&["store", "backup", "b.redb"], 0, &["backed up to b.redb"]);
    assert_eq!(mode(&world, "b.redb"), 0o600);
    let again = ["store", "backup", "b.redb"];
    world.check(&again, 1, &["b.redb exists already"]);
    let in_use = ["in use by another process"];
    world.check(&["store", "restore", "b.redb", "--replace"], 1, &in_use);
    world.check(&["store", "compact"], 1, &in_use);
    world.check(&["store", "check", "--repair"], 1, &in_use);
    std::fs::write(world.path().join("new.key"), key()).expect("written");
    private(&world, "new.key");
    let rekey = ["store", "rekey", "--new-key", "file:new.key"];
    world.check(&rekey, 1, &in_use);
    // What comes after the backup is lost by restoring it.
    world.check(&["merchant", "remove", "2021000000001002"], 0, &[]);
    assert_eq!(sidecar.terminate(), Some(0));
    assert_eq!(stats(&world)["merchants_authorized"], 1);
    let restore = ["store", "restore", "b.redb"];
    world.check(&restore, 1, &["exists already", "--replace"]);
    world.check(
        &["store", "restore", "b.redb", "--replace"],
        0,
        &[
            "2 merchants",
            ".replaced-",
            "may refuse",
            "suspect",
            "may be delivered again",
        ],
    );
    world.check(&["merchant", "list"], 0, &["2021000000001002"]);
    world.check(&["store", "compact"], 0, &["compacted from"]);
    world.check(&["store", "check"], 0, &["every index agrees"]);
    let (sidecar, _) = world.run();
    world.check(&["health", "--wait", "10s"], 0, &["ready"]);
    assert_eq!(sidecar.terminate(), Some(0));
}

/// Has a store say that it is of the schema before `now`.
pub(crate) fn age(path: &std::path::Path, now: u64) {
    let db = redb::Database::open(path).expect("opened");
    let tx = db.begin_write().expect("transaction");
    let meta: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("meta");
    let mut meta = tx.open_table(meta).expect("there");
    let version = (now - 1).to_be_bytes();
    meta.insert("schema", version.as_slice()).expect("written");
    drop(meta);
    tx.commit().expect("committed");
}

#[test]
fn a_verb_that_only_looks_says_that_it_migrated_the_store() {
    let world = World::start();
    world.check(&["store", "create"], 0, &["created"]);
    let said = |arguments: &[&str]| {
        let output = world.output(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let (out, err) = (output.stdout, output.stderr);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (text(out), text(err))
    };
    let (stats, _) = said(&["store", "stats", "--json"]);
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    let now = stats["schema"].as_u64().expect("a version");
    let from_to = format!("from schema version {} to {now}", now - 1);
    for arguments in [
        &["inbox", "list"][..],
        &["merchant", "list", "--json"],
        &["store", "check"],
        &["store", "stats", "--json"],
        &["store", "backup", "b.redb"],
        &["check"],
        &["store", "restore", "b.redb", "--replace", "--json"],
    ] {
        let file = match arguments.contains(&"restore") {
            true => "b.redb",
            false => "data/sidecar.redb",
        };
        age(&world.path().join(file), now);
        let (out, err) = said(arguments);
        let told: Vec<_> = err
            .lines()
            .filter(|line| line.contains("migrated"))
            .collect();
        assert_eq!(told.len(), 1, "{arguments:?}: {err}");
        for text in ["sidecar.redb", &from_to, "older program"] {
            assert!(told[0].contains(text), "no `{text}` in {err}");
        }
        assert!(!out.contains("migrated"), "{out}");
        let (_, err) = said(&["store", "check"]);
        assert!(!err.contains("migrated"), "{err}");
    }
}

/// Writes rubbish in the place of the second merchant's record.
fn damage(world: &World) {
    let path = world.path().join("data/sidecar.redb");
    let db = redb::Database::open(path).expect("opened");
    let tx = db.begin_write().expect("transaction");
    let table: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("merchants");
    let mut merchants = tx.open_table(table).expect("there");
    let whose = format!("{DEFAULT_APP_ID}\0{DAMAGED}");
    let garbage = [7; 100];
    merchants
        .insert(whose.as_bytes(), garbage.as_slice())
        .expect("written");
    drop(merchants);
    tx.commit().expect("committed");
}

#[test]
fn an_export_says_whose_records_it_lacks_whatever_its_form() {
    let world = World::start();
    world.check(&["store", "create"], 0, &["created"]);
    world.check(&["merchant", "import", "merchants.jsonl"], 0, &[]);
    damage(&world);
    let (sidecar, _) = world.run();
    let whose = format!("{DEFAULT_APP_ID}/{DAMAGED}");
    let output = world.output(&["merchant", "export"]);
    assert_eq!(output.status.code(), Some(1));
    let written = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(written.lines().count(), 1, "{written}");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    for text in [&whose, "1 merchants", "1 more", "store check"] {
        assert!(said.contains(text), "no `{text}` in {said}");
    }
    // A file that lacks some is of more use than none.
    let to_file = ["merchant", "export", "--out", "e.jsonl"];
    world.check(&to_file, 1, &[&whose]);
    let file = std::fs::read_to_string(world.path().join("e.jsonl"));
    assert_eq!(file.expect("kept"), written);
    // There standard output has room for why it failed.
    let told = world.output(&["merchant", "export", "--out", "f.jsonl", "--json"]);
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!(told["code"], "failed", "{told}");
    world.check(&["merchant", "list"], 0, &[&whose, "can't be read"]);
    let listed = world.check(&["merchant", "list", "--json", "--limit", "1"], 0, &[]);
    assert!(listed.contains(&format!("\"{whose}\"")), "{listed}");
    // Of what can't be read only both ids tell which it is.
    let exact = format!("app:{DAMAGED}");
    world.check(&["merchant", "remove", DAMAGED], 1, &["damaged"]);
    let other_app = ["merchant", "remove", "--app", "2021000000000009", &exact];
    world.check(&other_app, 1, &["no merchant"]);
    let remove = ["merchant", "remove", "--app", DEFAULT_APP_ID, &exact];
    world.check(&remove, 0, &[&whose, "is forgotten"]);
    world.check(&remove, 1, &["no merchant"]);
    world.check(&["merchant", "export"], 0, &[]);
    assert_eq!(sidecar.terminate(), Some(0));
    // The same without a sidecar, by the number alone.
    let remove = ["merchant", "remove", "--app", DEFAULT_APP_ID, DAMAGED];
    world.check(&remove, 1, &["no merchant"]);
    damage(&world);
    world.check(&remove, 0, &[&whose, "is forgotten"]);
    world.check(&["store", "check"], 0, &["every index agrees"]);
}

fn key() -> String {
    StoreKey::generate().to_base64().expose().clone()
}

fn private(world: &World, name: &str) {
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(world.path().join(name), mode).expect("set");
}

#[test]
fn a_store_gets_another_key_and_says_what_to_do_then() {
    let world = World::start();
    world.check(&["store", "create"], 0, &["created"]);
    world.check(&["merchant", "import", "merchants.jsonl"], 0, &[]);
    std::fs::write(world.path().join("new.key"), key()).expect("written");
    private(&world, "new.key");
    let rekey = ["store", "rekey", "--new-key", "file:new.key"];
    world.check(
        &rekey,
        0,
        &[
            "sealed under the new key",
            "set `store.key`",
            ".rekeyed-",
            "links",
        ],
    );
    world.check(
        &["merchant", "list"],
        1,
        &["does not open", "last rekeyed to"],
    );
    // The answer to somebody who doesn't know whether the crashed one had come to its end: and what
    // any of them left under a former key.
    let left = "sidecar.redb.rekeyed-20200102T030405Z";
    std::fs::write(world.path().join("data").join(left), "").expect("written");
    world.check(
        &rekey,
        0,
        &[
            "under this key already",
            "set `store.key`",
            left,
            ".rekeyed-20",
        ],
    );
    let config = std::fs::read_to_string(world.path().join("config.toml")).expect("readable");
    let old = config
        .lines()
        .find(|line| line.starts_with("key = \"file:"));
    world.edit(old.expect("a store key"), "key = \"file:new.key\"");
    world.check(&["merchant", "list"], 0, &["2021000000001002"]);
    world.check(&["store", "check"], 0, &["every index agrees"]);
    world.check(
        &["store", "rekey", "--new-key", "file:nothing.key"],
        1,
        &["--new-key", "nothing.key"],
    );
    std::fs::write(world.path().join("short.key"), "AAAA").expect("written");
    private(&world, "short.key");
    let short = ["store", "rekey", "--new-key", "file:short.key"];
    world.check(&short, 1, &["--new-key", "32 bytes"]);
}

/// What stands in a folder of the world.
fn names(world: &World, folder: &str) -> Vec<String> {
    let files = std::fs::read_dir(world.path().join(folder)).expect("readable");
    let name = |file: std::io::Result<std::fs::DirEntry>| file.expect("a file").file_name();
    let mut names: Vec<_> = files
        .map(|file| name(file).into_string().expect("text"))
        .collect();
    names.sort();
    names
}

#[test]
fn what_a_link_leads_to_is_replaced_and_kept_and_the_link_stays() {
    let world = World::start();
    world.check(&["store", "create"], 0, &["created"]);
    world.check(&["merchant", "import", "merchants.jsonl"], 0, &[]);
    world.check(&["store", "backup", "b.redb"], 0, &["backed up"]);
    let (link, disk) = (
        world.path().join("data/sidecar.redb"),
        world.path().join("disk"),
    );
    std::fs::create_dir(&disk).expect("made");
    std::fs::rename(&link, disk.join("real.redb")).expect("moved");
    std::os::unix::fs::symlink("../disk/real.redb", &link).expect("linked");
    std::fs::write(world.path().join("new.key"), key()).expect("written");
    private(&world, "new.key");
    let beside = names(&world, "data");

    world.check(
        &["store", "restore", "b.redb", "--replace"],
        0,
        &["disk/real.redb.replaced-"],
    );
    let rekey = ["store", "rekey", "--new-key", "file:new.key"];
    world.check(&rekey, 0, &["disk/real.redb.rekeyed-"]);
    world.check(&rekey, 0, &["already", "disk/real.redb.rekeyed-"]);
    assert!(link.is_symlink());
    assert_eq!(names(&world, "data"), beside);
    let [real, rekeyed, replaced] = &names(&world, "disk")[..] else {
        panic!("{:?}", names(&world, "disk"));
    };
    assert_eq!(real, "real.redb");
    assert!(rekeyed.contains(".rekeyed-") && replaced.contains(".replaced-"));
    // What was kept is a file of its own, not the link once more.
    for name in [rekeyed, replaced] {
        assert!(!disk.join(name).is_symlink(), "{name}");
    }
    let config = std::fs::read_to_string(world.path().join("config.toml")).expect("readable");
    let old = config
        .lines()
        .find(|line| line.starts_with("key = \"file:"));
    let old = old.expect("a store key").to_owned();
    world.edit(&old, "key = \"file:new.key\"");
    world.check(&["merchant", "list"], 0, &["2021000000001002"]);

    std::fs::remove_file(disk.join("real.redb")).expect("removed");
    // A lost file is what backups are for; a lost disk has to be put back first.
    let restore = ["store", "restore", "b.redb"];
    let config = std::fs::read_to_string(world.path().join("config.toml")).expect("readable");
    let new = config
        .lines()
        .find(|line| line.starts_with("key = \"file:"));
    world.edit(new.expect("a store key"), &old);
    world.check(&restore, 0, &["restored"]);
    assert!(link.is_symlink() && disk.join("real.redb").is_file());
    world.check(&["merchant", "list"], 0, &["2021000000001002"]);
    world.check(&restore, 1, &["disk/real.redb exists already"]);
    std::fs::remove_dir_all(&disk).expect("removed");
    world.check(&restore, 1, &["a link that leads to nothing"]);
    assert!(link.is_symlink() && !disk.exists());

    // On a new machine the folder is made, be its parent a link or not.
    std::fs::create_dir(&disk).expect("made");
    std::os::unix::fs::symlink("disk", world.path().join("linked")).expect("linked");
    world.edit("data/sidecar.redb", "linked/new/data/sidecar.redb");
    world.check(&restore, 0, &["restored"]);
    assert!(disk.join("new/data/sidecar.redb").is_file());
    world.check(&["merchant", "list"], 0, &["2021000000001002"]);
}

#[test]
fn a_backup_without_a_sidecar_and_a_store_that_cannot_be_moved_yet() {
    let world = World::start();
    world.check(&["store", "stats"], 1, &["there is no store"]);
    world.check(&["store", "create"], 0, &["created"]);
    world.check(&["store", "backup", "b.redb"], 0, &["backed up"]);
    assert_eq!(mode(&world, "b.redb"), 0o600);
    let wrong = ["store", "restore", "config.toml", "--replace"];
    world.check(&wrong, 1, &["config.toml is damaged or is no store"]);
    let migrate = ["store", "migrate", "--to", "postgres://u:hidden@db/x"];
    let said = world.check(&migrate, 78, &["PostgreSQL", "it comes later"]);
    assert!(!said.contains("hidden"), "{said}");
}
