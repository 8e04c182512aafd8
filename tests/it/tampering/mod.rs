//! Messages of Alipay's, changed on their way: every bit, every byte, and what people who know the
//! format would try. None may be accepted but where the signed bytes are the same, which an oracle of
//! its own decides (`oracle`): it shares no code with what is tested, and never asks it.
//!
//! `TAMPERING_LONG=1` changes every bit of every message of `golden`; the short form those of twenty.
//! `cargo test tampering -- --nocapture` tells how many cases there were.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy knows only functions marked as tests; these are their helpers"
)]

mod bodies;
mod forms;
mod golden;
mod oracle;
mod v3;

use std::collections::BTreeMap;

use alipay_sidecar::protocol::app_result::UnverifiedAppResult;
use alipay_sidecar::protocol::client_data::UnverifiedClientData;
use alipay_sidecar::protocol::envelope::{Envelope, Verification};
use alipay_sidecar::protocol::notification::UnverifiedNotification;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::protocol::spi::UnverifiedSpiCall;
use alipay_sidecar::protocol::v3_response::{V3Response, V3Verification};

use golden::{Golden, Kind};

/// What the code under test says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Alipay signed it.
    Accepted,
    /// An error that nobody signed: its outcome is unknown.
    UnsignedError,
    Refused,
}

/// What became of the cases of one kind.
#[derive(Clone, Copy, Default)]
struct Tally {
    refused: usize,
    /// The signed bytes are the same.
    same: usize,
    unsigned_errors: usize,
}

impl Tally {
    fn cases(self) -> usize {
        self.refused + self.same + self.unsigned_errors
    }
}

/// Asks the code under test.
fn verdict(kind: &Kind, wire: &[u8]) -> Verdict {
    let keys = golden::alipay_keys();
    let is_signed = match kind {
        Kind::Reply {
            method,
            charset,
            sign_type,
        } => {
            let parsed = Envelope::parse_in(wire.to_vec().into(), method, *charset);
            match parsed.and_then(|envelope| envelope.verify(&keys, *sign_type)) {
                Ok(reply) if reply.verification() == Verification::UnsignedError => {
                    return Verdict::UnsignedError;
                }
                other => other.is_ok(),
            }
        }
        Kind::V3 { status } => {
            let (headers, body) = golden::v3_parts(wire);
            let headers = headers.iter().map(|(name, value)| (name.as_str(), *value));
            let parsed = V3Response::new(*status, headers, body.to_vec().into());
            match parsed.and_then(|response| response.verify(&keys)) {
                Ok(response) if response.verification() != V3Verification::Signed => {
                    return Verdict::UnsignedError;
                }
                other => other.is_ok(),
            }
        }
        Kind::Notification { content_type, app } => {
            UnverifiedNotification::parse(Some(content_type), wire)
                .and_then(|parsed| parsed.verify(&keys, *app))
                .is_ok()
        }
        Kind::Spi => {
            let (query, body) = golden::spi_parts(wire);
            UnverifiedSpiCall::parse(query, None, body)
                .and_then(|parsed| parsed.verify(&keys, SignType::Rsa2))
                .is_ok()
        }
        Kind::ClientData => UnverifiedClientData::parse(wire)
            .and_then(|parsed| parsed.verify(&keys))
            .is_ok(),
        Kind::AppResult => UnverifiedAppResult::parse(wire)
            .is_ok_and(|parsed| parsed.verify(&keys, SignType::Rsa2).is_ok()),
    };
    match is_signed {
        true => Verdict::Accepted,
        false => Verdict::Refused,
    }
}

/// Judges one changed message; `what` names the change.
fn judge(tally: &mut Tally, golden: &Golden, what: &str, wire: &[u8]) {
    let told = || format!("{}: {what}\n{}", golden.name, wire.escape_ascii());
    match verdict(&golden.kind, wire) {
        Verdict::Refused => tally.refused += 1,
        Verdict::Accepted => {
            // What is made of two messages may be a third that Alipay signed, too.
            let others = golden::all()
                .iter()
                .filter(|_| what.starts_with("another message's"));
            let mut signed = others.chain([golden]);
            assert!(
                signed.any(|golden| oracle::is_same(golden, wire)),
                "accepted: {}",
                told()
            );
            tally.same += 1;
        }
        Verdict::UnsignedError => {
            assert!(
                oracle::is_unsigned_error(golden, wire),
                "passed: {}",
                told()
            );
            tally.unsigned_errors += 1;
        }
    }
}

fn report(what: &str, tallies: &BTreeMap<&str, Tally>) -> usize {
    let mut all = 0;
    for (kind, tally) in tallies {
        all += tally.cases();
        println!(
            "tampering, {what}, {kind}: {} cases, {} refused, {} accepted because the signed bytes \
             are the same, {} taken for an error that nobody signed",
            tally.cases(),
            tally.refused,
            tally.same,
            tally.unsigned_errors
        );
    }
    all
}

#[test]
fn each_golden_message_is_accepted_as_it_is() {
    let all = golden::all();
    assert!(all.len() >= 20, "{}", all.len());
    for golden in all {
        assert_eq!(
            verdict(&golden.kind, &golden.wire),
            Verdict::Accepted,
            "{}",
            golden.name
        );
        assert!(oracle::is_same(golden, &golden.wire), "{}", golden.name);
    }
}

#[test]
fn no_message_is_accepted_with_a_bit_changed() {
    let chosen = match std::env::var_os("TAMPERING_LONG") {
        Some(_) => golden::all().iter().collect(),
        None => golden::chosen(),
    };
    assert!(chosen.len() >= 20, "{}", chosen.len());
    let mut tallies = BTreeMap::new();
    for golden in chosen {
        let tally: &mut Tally = tallies.entry(golden.kind.name()).or_default();
        let mut wire = golden.wire.clone();
        for bit in 0..wire.len() * 8 {
            wire[bit / 8] ^= 1 << (bit % 8);
            judge(tally, golden, &format!("bit {bit}"), &wire);
            wire[bit / 8] ^= 1 << (bit % 8);
        }
    }
    assert!(report("bits", &tallies) >= 85_000);
}

#[test]
fn no_message_is_accepted_with_a_byte_gone_or_doubled_or_swapped() {
    let mut tallies = BTreeMap::new();
    for golden in golden::all() {
        let tally: &mut Tally = tallies.entry(golden.kind.name()).or_default();
        for at in 0..golden.wire.len() {
            let (before, rest) = golden.wire.split_at(at);
            let without = [before, &rest[1..]].concat();
            judge(tally, golden, &format!("byte {at} gone"), &without);
            let doubled = [before, &rest[..1], rest].concat();
            judge(tally, golden, &format!("byte {at} doubled"), &doubled);
            if at % 4 == 0 {
                judge(tally, golden, &format!("cut at {at}"), before);
            }
            if let [one, other, behind @ ..] = rest
                && one != other
                && at % 2 == 0
            {
                let swapped = [before, &[*other, *one], behind].concat();
                judge(tally, golden, &format!("bytes {at} swapped"), &swapped);
            }
        }
    }
    assert!(report("bytes", &tallies) >= 55_000);
}

#[test]
fn no_message_is_accepted_that_somebody_rebuilt() {
    let all = golden::all();
    let mut names = std::collections::BTreeSet::new();
    let mut tallies = BTreeMap::new();
    for golden in all {
        let tally: &mut Tally = tallies.entry(golden.kind.name()).or_default();
        let changes = match golden.kind {
            Kind::Reply { .. } | Kind::ClientData | Kind::AppResult => bodies::all(golden, all),
            Kind::V3 { .. } => v3::all(golden, all),
            Kind::Notification { .. } | Kind::Spi => forms::all(golden, all),
        };
        for (name, wire) in changes {
            if wire != golden.wire {
                judge(tally, golden, name, &wire);
                names.insert(name);
            }
        }
    }
    assert!(
        names.len() >= 190,
        "{} kinds of change: {names:?}",
        names.len()
    );
    println!("tampering: {} kinds of change", names.len());
    assert!(report("rebuilt", &tallies) >= 8_000);
}
