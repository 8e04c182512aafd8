//! What a check says of a log, and that it says nothing else.

use std::path::Path;

use super::chain::{self, ChainKey, Head};
use super::entry::{Entry, Event};
use super::tests::entry;
use super::verify::{Extent, Report, Verifier};

const CAME_BEFORE: &str = "lines 1 to 2, which came before, are missing";
const DOES_NOT_FOLLOW: &str = "doesn't follow from the line before";
const KEPT: &str = "as long as `audit.retain`";
const ONLY_SLIPS: &str = "without the store key only slips are found";
const WITHOUT_A_KEY: &str = "it was written without a key";

/// A log as it is written, line by line.
struct Written {
    lines: Vec<Vec<u8>>,
    head: Head,
}

impl Written {
    /// One whose lines up to `seq` aren't there.
    fn behind(seq: u64) -> Self {
        Self {
            lines: Vec::new(),
            head: Head { seq, ..Head::NONE },
        }
    }

    /// The same with a line more.
    fn with(mut self, key: Option<&ChainKey>, entry: &Entry) -> Self {
        let (line, head) = chain::line(self.head, key, (0, entry));
        self.lines.push(line);
        self.head = head;
        self
    }
}

fn ours() -> ChainKey {
    ChainKey::derive(b"a key")
}

fn former() -> ChainKey {
    ChainKey::derive(b"a former key")
}

fn begun(key: Option<&ChainKey>) -> Entry {
    let entry = Entry::new(Event::Audit, "log", "started");
    match key {
        Some(key) => entry.with("key", key.id()),
        None => entry.without("key"),
    }
}

fn retired(through: u64) -> Entry {
    Entry::new(Event::Audit, "log", "retired").with_number("through", through)
}

fn check(lines: &[Vec<u8>], key: Option<&ChainKey>, anchored: Option<u64>) -> Report {
    let anchored = anchored.map(|seq| Head { seq, ..Head::NONE });
    let bytes = lines.join(&b'\n');
    let mut verifier = Verifier::new(key, anchored);
    let read = verifier.file(Path::new("audit.jsonl"), bytes.as_slice());
    read.expect("readable");
    verifier.end(Extent::Whole)
}

/// It tells these problems and these remarks, in this order, and no others.
#[track_caller]
fn tells(report: &Report, problems: &[&str], remarks: &[&str]) {
    let all = |told: &[String], expected: &[&str]| {
        let mut pairs = told.iter().zip(expected);
        told.len() == expected.len() && pairs.all(|(told, expected)| told.contains(*expected))
    };
    let told: Vec<String> = report.problems.iter().map(|p| p.what.clone()).collect();
    assert!(all(&told, problems), "{problems:?}: {report:?}");
    assert!(all(&report.remarks, remarks), "{remarks:?}: {report:?}");
    assert_eq!(report.good, problems.is_empty(), "{report:?}");
}

#[test]
fn what_is_wrong_with_the_order_is_told_once_and_by_its_name() {
    let key = ours();
    let beginning = Written::behind(0).with(Some(&key), &begun(Some(&key)));
    let (another_second, _) = chain::line(beginning.head, Some(&key), (0, &entry(7)));
    let mut lines = beginning
        .with(Some(&key), &entry(1))
        .with(Some(&key), &entry(2))
        .with(Some(&key), &entry(3))
        .lines;
    tells(&check(&lines, Some(&key), None), &[], &[]);
    lines.push(another_second);
    let is_told = |order: &[usize], what: &str| {
        let ordered: Vec<Vec<u8>> = order.iter().map(|at| lines[*at].clone()).collect();
        tells(&check(&ordered, Some(&key), None), &[what], &[]);
    };
    is_told(&[0, 2, 3], "lines 2 to 2 are missing before it");
    is_told(&[0, 1, 1, 2, 3], "it is line 2, but line 3 belongs here");
    is_told(&[0, 4, 2, 3], DOES_NOT_FOLLOW);
}

#[test]
fn what_a_former_key_says_of_lines_that_went_is_believed_where_ours_binds_it() {
    let (former, ours) = (former(), ours());
    let log = Written::behind(2)
        .with(Some(&former), &begun(Some(&former)))
        .with(Some(&former), &retired(2))
        .with(Some(&ours), &begun(Some(&ours)));
    tells(&check(&log.lines, Some(&ours), None), &[], &[KEPT]);
}

#[test]
fn what_is_said_of_lines_that_went_is_not_believed_across_a_break() {
    let (former, ours) = (former(), ours());
    let beginning = Written::behind(2).with(Some(&former), &begun(Some(&former)));
    // Whoever removed the first lines writes that they went, where nobody has the key any more.
    let (forged, _) = chain::line(beginning.head, None, (0, &retired(2)));
    let mut lines = beginning
        .with(Some(&former), &entry(1))
        .with(Some(&former), &entry(2))
        .with(Some(&ours), &begun(Some(&ours)))
        .lines;
    lines[1] = forged;
    let report = check(&lines, Some(&ours), None);
    tells(&report, &[DOES_NOT_FOLLOW, CAME_BEFORE], &[]);
    lines.remove(2);
    let missing = "lines 5 to 5 are missing before it";
    tells(
        &check(&lines, Some(&ours), None),
        &[missing, CAME_BEFORE],
        &[],
    );
}

#[test]
fn the_line_that_the_store_knows_may_lack_only_where_the_key_proves_that_it_went() {
    let key = ours();
    let mut log = Written::behind(3)
        .with(Some(&key), &begun(Some(&key)))
        .with(Some(&key), &retired(3))
        .with(Some(&key), &entry(1))
        .with(Some(&key), &entry(2));
    for went in [2, 3] {
        tells(&check(&log.lines, Some(&key), Some(went)), &[], &[KEPT]);
        // Without the key anybody may have said so.
        let what = format!("line {went}, which the store knows, is missing");
        let report = check(&log.lines, None, Some(went));
        tells(&report, &[what.as_str()], &[KEPT, ONLY_SLIPS]);
    }
    log.lines.remove(2);
    tells(
        &check(&log.lines, Some(&key), Some(6)),
        &[
            "lines 6 to 6 are missing before it",
            "line 6, which the store knows, is missing",
        ],
        &[KEPT],
    );
}

#[test]
fn under_which_key_the_end_stands_is_told() {
    let (former, ours) = (former(), ours());
    let log = |key: Option<&ChainKey>| {
        let log = Written::behind(0).with(key, &begun(key));
        log.with(key, &entry(1)).lines
    };
    let under_ours = log(Some(&ours));
    tells(&check(&under_ours, Some(&ours), None), &[], &[]);
    tells(&check(&under_ours, None, None), &[], &[ONLY_SLIPS]);
    let under_none = log(None);
    tells(&check(&under_none, None, None), &[], &[WITHOUT_A_KEY]);
    tells(
        &check(&under_none, Some(&ours), None),
        &["the last lines were written without a key"],
        &[WITHOUT_A_KEY],
    );
    tells(
        &check(&log(Some(&former)), Some(&ours), None),
        &["the last lines were written under another key"],
        &[],
    );
    // Where nothing was written yet, nothing is wrong.
    tells(&check(&[], Some(&ours), None), &[], &[]);
}
