//! Twenty kinds of marked secrets go through a running program that logs all it can, in calls
//! that succeed and calls that fail, and through every verb of the command line that handles any;
//! afterwards none of them stands in anything that anybody else can read.
//!
//! It is a scenario of its own, because a mark is worth something only in every place that holds a
//! secret at once, with all that is shown to anybody kept: most tests hold one or two, in process,
//! and look at the answer alone. Those whose program is a process of its own log at the same level,
//! and what these write is searched for the secrets of their own folder as they end
//! (`support/leaks.rs`).
//!
//! `CANARY_ROUNDS=20` plays every call and every fault so often; by default once.
#![cfg(target_os = "linux")]

pub mod search;
mod traffic;
mod verbs;
mod world;

use self::verbs::Answers;
use self::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_shown_to_anybody() {
    let rounds = std::env::var("CANARY_ROUNDS");
    let rounds = rounds.ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut world = World::start().await;
    world.learn_tokens();
    traffic::prepare(&mut world).await;
    for _ in 0..rounds {
        traffic::calls(&mut world).await;
        traffic::refused(&mut world).await;
        traffic::faults(&mut world).await;
        traffic::users(&mut world).await;
        traffic::webhook(&mut world).await;
        world.learn_tokens();
    }
    let deliveries = world.take_deliveries().await;
    traffic::operator(&mut world).await;
    verbs::all(&mut world, Answers::Sidecar).await;
    traffic::wrong_configuration(&mut world).await;
    world.learn_tokens();
    let looked = world.look_into_proc();
    assert_eq!(world.abort().await, Some(6));
    verbs::all(&mut world, Answers::Nobody).await;
    verbs::care(&mut world).await;
    world.learn_tokens();
    let unexpected = std::mem::take(&mut world.unexpected);
    let secrets = world.secrets.len();
    let log = std::fs::read_to_string(world.supervisor.path().join("sidecar.log"));
    let log = log.expect("readable");
    assert!(log.contains("\"level\":\"DEBUG\"") || log.contains("\"level\":\"TRACE\""));
    world.plant();
    let (hits, bytes) = world.search();
    let (planted, hits): (Vec<_>, Vec<_>) = hits
        .into_iter()
        .partition(|hit| hit.ends_with(world::PLANTED));
    println!(
        "canaries: {secrets} kinds of secrets, {bytes} bytes searched, {} hits",
        hits.len()
    );
    assert_eq!(planted.len(), 1, "{planted:?}");
    // Whoever isn't root sees less of the process.
    assert!(secrets >= 20 && deliveries >= 3 && looked >= 10 && bytes > 500_000);
    let wrong = [hits, unexpected].concat();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
