//! Checks a log: that every line follows from the one before, and who made it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::chain::{ChainKey, Head, ReadLine, digest_text};
use super::files::{Ended, Torn};
use super::opened;

/// How many problems are named; a broken file has one a line.
const MOST_PROBLEMS: usize = 50;
/// The longest line that is read, bytes: many times what the log writes.
const LONGEST: usize = 64 << 10;

/// What a check found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub good: bool,
    /// The files, in the order in which their lines follow each other.
    pub files: Vec<PathBuf>,
    /// How many lines were read.
    pub lines: u64,
    /// The number and the time of the first line.
    pub first: Option<(u64, String)>,
    /// The same of the last one.
    pub last: Option<(u64, String)>,
    /// How many lines have a MAC that holds; the others are bound by the lines behind them.
    pub authenticated: u64,
    /// Up to which line the store knows the log.
    pub anchored: Option<u64>,
    /// What is wrong, the first of it.
    pub problems: Vec<Problem>,
    /// How many problems there are in all.
    pub problem_count: u64,
    /// What isn't wrong, but worth knowing.
    pub remarks: Vec<String>,
    /// How many of the problems are about what a crash left behind the last line, or before the first:
    /// the file beside it may explain them.
    #[serde(skip)]
    pub(super) edges: u64,
}

/// What is wrong, and where.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// In which file.
    pub file: PathBuf,
    /// In which line of it, from 1; 0: not in one.
    pub line: u64,
    /// What.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.what),
        }
    }
}

/// How much of a log was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Some files of it: lines before and behind them are somewhere else.
    Part,
    /// All that is left of it.
    Whole,
}

/// Checks `files`, which follow each other.
///
/// # Errors
/// The system's, where a file can't be read.
pub fn verify(
    files: &[PathBuf],
    key: Option<&ChainKey>,
    (extent, anchored): (Extent, Option<Head>),
) -> io::Result<Report> {
    let mut verifier = Verifier::new(key, anchored);
    for file in files {
        verifier.file(file, BufReader::new(File::open(file)?))?;
    }
    Ok(verifier.end(extent))
}

/// Checks the whole log at `path`, also while it is written: files are set aside and removed
/// meanwhile, so they are opened before the first is read, and each is read as far as it went then.
///
/// # Errors
/// The system's, where a file can't be read.
pub fn verify_all(
    path: &Path,
    key: Option<&ChainKey>,
    anchored: Option<Head>,
) -> io::Result<Report> {
    let mut verifier = Verifier::new(key, anchored);
    // Where no file is left, it is this one that is missing.
    verifier.at.0 = path.to_owned();
    for (name, file, length) in opened::opened(path)? {
        verifier.file(&name, BufReader::new(file.take(length)))?;
    }
    Ok(verifier.end(Extent::Whole))
}

/// Under which key lines stand.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Under {
    Another(String),
    None,
    Ours,
}

/// Reads line after line.
pub(super) struct Verifier<'k> {
    key: Option<&'k ChainKey>,
    anchored: Option<Head>,
    report: Report,
    under: Under,
    last: Option<Head>,
    /// Whether the last line's MAC holds.
    is_last_ours: bool,
    /// What was read since the last line and is none, and where that began.
    torn: Torn,
    torn_at: (PathBuf, u64),
    retired: u64,
    /// The same, said by lines that nothing vouches for yet.
    said_retired: u64,
    /// Whether the anchored line came by.
    is_anchor_seen: bool,
    /// Whether the last line lacks its end.
    is_open: bool,
    at: (PathBuf, u64),
}

impl<'k> Verifier<'k> {
    pub(super) fn new(key: Option<&'k ChainKey>, anchored: Option<Head>) -> Self {
        Self {
            key,
            anchored,
            report: Report {
                anchored: anchored.map(|head| head.seq),
                ..Report::default()
            },
            under: Under::Ours,
            last: None,
            is_last_ours: false,
            torn: Torn::default(),
            torn_at: (PathBuf::new(), 0),
            retired: 0,
            said_retired: 0,
            is_anchor_seen: false,
            is_open: false,
            at: (PathBuf::new(), 0),
        }
    }

    pub(super) fn file(&mut self, path: &Path, mut source: impl BufRead) -> io::Result<()> {
        self.report.files.push(path.to_owned());
        self.at = (path.to_owned(), 0);
        self.is_open = false;
        loop {
            let mut line = Vec::new();
            let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX);
            let read = Read::take(&mut source, limit).read_until(b'\n', &mut line)?;
            if read == 0 {
                self.torn.end_of_file();
                return Ok(());
            }
            // What is longer than is read at once comes in pieces.
            if !self.is_open {
                self.at.1 += 1;
            }
            self.is_open = !line.ends_with(b"\n");
            self.line(line.strip_suffix(b"\n").unwrap_or(&line));
        }
    }

    fn line(&mut self, bytes: &[u8]) {
        let Some(line) = ReadLine::read(bytes) else {
            if self.torn.count == 0 {
                self.torn_at = self.at.clone();
            }
            let ended = if self.is_open { Ended::No } else { Ended::Yes };
            self.torn.push(bytes, ended);
            return;
        };
        self.follows(&line);
        self.is_ours(&line);
        self.anchors(&line);
        self.retires(&line);
        self.is_vouched(&line);
        let at = (line.seq, line.time.clone());
        self.report.lines += 1;
        self.report.first.get_or_insert_with(|| at.clone());
        self.report.last = Some(at);
        self.last = Some(line.head());
    }

    /// Whether it comes right behind the line before.
    fn follows(&mut self, line: &ReadLine<'_>) {
        self.torn_is_told(line);
        let Some(last) = self.last else {
            return;
        };
        let (seq, expected) = (line.seq, last.seq.saturating_add(1));
        if seq != expected || line.prev != digest_text(last.digest) {
            // Nothing behind a break vouches for what is before it.
            self.said_retired = 0;
        }
        if seq > expected {
            self.wrong(format!(
                "lines {expected} to {} are missing before it",
                seq - 1
            ));
        } else if seq < expected {
            self.wrong(format!(
                "it is line {seq}, but line {expected} belongs here: lines were repeated, or put \
                 into another order"
            ));
        } else if line.prev != digest_text(last.digest) {
            self.wrong(format!(
                "line {seq} doesn't follow from the line before: that was changed, or another stood \
                 in its place"
            ));
        }
    }

    /// What is no line is right only where the next line vouches for it.
    fn torn_is_told(&mut self, line: &ReadLine<'_>) {
        let torn = std::mem::take(&mut self.torn);
        let ((file, at), count) = (self.torn_at.clone(), torn.count);
        let there = torn.digest();
        match (there, &line.said.torn) {
            (None, None) => {}
            (there, told) if there == *told => self.report.remarks.push(format!(
                "{}:{at}: torn by a crash, as the start behind it tells ({count} lines)",
                file.display()
            )),
            (None, Some(_)) => {
                let first = self.report.first.as_ref();
                self.report.edges += u64::from(first.is_none_or(|(seq, _)| *seq == line.seq));
                self.wrong("what a crash left before it is missing".to_owned());
            }
            (Some(_), _) => {
                let here = std::mem::replace(&mut self.at, (file, at));
                self.wrong("it is no line of an audit log".to_owned());
                self.at = here;
            }
        }
    }

    /// Whether it was made with the key.
    fn is_ours(&mut self, line: &ReadLine<'_>) {
        self.is_last_ours = false;
        if let Some(named) = &line.said.key {
            self.under = match (named, self.key) {
                (None, _) => Under::None,
                (Some(named), Some(key)) if named != key.id() => Under::Another(named.clone()),
                (Some(_), _) => Under::Ours,
            };
        }
        let Some(key) = self.key else {
            return;
        };
        if self.under != Under::Ours {
            return;
        }
        if line.is_by(key) {
            self.is_last_ours = true;
            self.report.authenticated += 1;
            return;
        }
        let seq = line.seq;
        self.wrong(match line.has_mac() {
            true => {
                format!("line {seq} was changed, or made without the key: its mac doesn't hold")
            }
            false => format!("line {seq} has no mac"),
        });
    }

    /// Whether it is the line that the store knows.
    fn anchors(&mut self, line: &ReadLine<'_>) {
        let Some(anchored) = self.anchored.filter(|head| head.seq == line.seq) else {
            return;
        };
        self.is_anchor_seen = true;
        if anchored != line.head() {
            let seq = line.seq;
            self.wrong(format!("line {seq} isn't the one that the store knows"));
        }
    }

    /// What it says of lines that went is believed once it is vouched for: by its MAC, or by that of
    /// a line behind it to which nothing breaks the chain. Who has no key believes all.
    fn retires(&mut self, line: &ReadLine<'_>) {
        let said = line.said.retired.unwrap_or_default();
        self.said_retired = self.said_retired.max(said);
        if self.key.is_none() || self.is_last_ours {
            self.retired = self.retired.max(self.said_retired);
        }
    }

    /// Whether all before it was vouched for when it was written.
    fn is_vouched(&mut self, line: &ReadLine<'_>) {
        let Some(count) = line.said.unvouched else {
            return;
        };
        self.wrong(format!(
            "when the sidecar started here, {count} lines stood at the end that were not written \
             under its store key: somebody else wrote them; nothing vouches for them"
        ));
    }

    fn wrong(&mut self, what: String) {
        self.report.problem_count += 1;
        if self.report.problems.len() < MOST_PROBLEMS {
            let (file, line) = self.at.clone();
            self.report.problems.push(Problem { file, line, what });
        }
    }

    pub(super) fn end(mut self, extent: Extent) -> Report {
        self.torn_at_the_end();
        self.begins(extent);
        self.ends();
        self.is_covered();
        self.report.good = self.report.problem_count == 0;
        self.report
    }

    /// A line that isn't finished yet, or was torn by a crash that nobody started after.
    fn torn_at_the_end(&mut self) {
        let (file, at) = self.torn_at.clone();
        match self.torn.count {
            0 => {}
            1 if self.is_open && self.at == self.torn_at => self.report.remarks.push(format!(
                "{}:{at}: the last line isn't finished: it is being written, or a crash tore it",
                file.display()
            )),
            _ => {
                self.at = (file, at);
                self.report.edges += 1;
                self.wrong("it is no line of an audit log".to_owned());
            }
        }
    }

    /// What is before the first line.
    fn begins(&mut self, extent: Extent) {
        let Some((first, _)) = self.report.first else {
            return;
        };
        let before = first.saturating_sub(1);
        if before == 0 {
            return;
        }
        if extent == Extent::Part || before <= self.retired {
            let why = match before <= self.retired {
                true => "they were kept as long as `audit.retain` and `audit.max_size` say",
                false => "they weren't given",
            };
            self.report
                .remarks
                .push(format!("lines 1 to {before} aren't here: {why}"));
            return;
        }
        let file = self.report.files.first().cloned().unwrap_or_default();
        self.at = (file, 0);
        self.wrong(format!(
            "lines 1 to {before}, which came before, are missing; where they were moved, name all \
             files in the order of their lines"
        ));
    }

    /// What is behind the last line.
    fn ends(&mut self) {
        let Some(anchored) = self.anchored else {
            return;
        };
        let last = self.last.map_or(0, |head| head.seq);
        let file = self.report.files.last().unwrap_or(&self.at.0).clone();
        if last < anchored.seq {
            self.at = (file, 0);
            let (from, to) = (last + 1, anchored.seq);
            self.wrong(format!(
                "lines {from} to {to} are missing at the end; the store knows them"
            ));
        } else if !self.is_anchor_seen && (self.key.is_none() || anchored.seq > self.retired) {
            self.at = (file, 0);
            let seq = anchored.seq;
            self.wrong(format!("line {seq}, which the store knows, is missing"));
        }
    }

    /// Whether somebody with the key made the end, which vouches for all before.
    fn is_covered(&mut self) {
        match (self.key, &self.under) {
            (None, Under::Ours) => self.report.remarks.push(
                "without the store key only slips are found: whoever can write the files can write \
                 them anew as a whole"
                    .to_owned(),
            ),
            (_, Under::None) => self.report.remarks.push(
                "it was written without a key: whoever can write the files can write them anew as a \
                 whole"
                    .to_owned(),
            ),
            _ => {}
        }
        if self.key.is_none() {
            return;
        }
        let what = match &self.under {
            // What lacks our MAC here was told line by line.
            Under::Ours => return,
            Under::Another(id) => format!(
                "the last lines were written under another key ({id}); give the store key of then, \
                 or start the sidecar with the one of now, which vouches for them"
            ),
            Under::None => "the last lines were written without a key".to_owned(),
        };
        self.wrong(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::digest;

    const LINE: &[u8] =
        b"{\"seq\":1,\"prev\":\"\",\"time\":\"\",\"event\":\"call\",\"outcome\":\"ok\"}\n";

    fn reading(bytes: &[u8]) -> Verifier<'static> {
        let mut verifier = Verifier::new(None, None);
        let read = verifier.file(Path::new("audit.jsonl"), bytes);
        read.expect("readable");
        verifier
    }

    /// A start that tells of `torn`, behind it.
    fn told(torn: &[u8]) -> Vec<u8> {
        let said = digest_text(digest(torn));
        let line = format!(
            "{{\"seq\":1,\"prev\":\"\",\"time\":\"\",\"event\":\"audit\",\"action\":\"opened\",\
             \"outcome\":\"ok\",\"torn\":\"{said}\"}}\n"
        );
        [torn, b"\n", line.as_bytes()].concat()
    }

    #[test]
    fn a_start_may_tell_of_many_torn_lines_and_of_long_ones() {
        for torn in [
            b"r".to_vec(),
            b"rubbish\n".repeat(5_000),
            [b"r".repeat(3 * LONGEST + 7).as_slice(), b"\nr"].concat(),
        ] {
            let whole = told(&torn);
            let report = reading(&whole).end(Extent::Whole);
            assert_eq!(report.problem_count, 0, "{:?}", report.problems);
            let lines = torn.split(|byte| *byte == b'\n').count();
            let said = format!(
                "audit.jsonl:1: torn by a crash, as the start behind it tells ({lines} lines)"
            );
            assert_eq!(report.remarks.first(), Some(&said));
            let changed = [b".", whole.as_slice()].concat();
            assert_eq!(reading(&changed).end(Extent::Whole).problem_count, 1);
        }
    }

    #[test]
    fn what_two_files_end_with_are_two_torn_lines() {
        let mut verifier = Verifier::new(None, None);
        let first = verifier.file(Path::new("audit.jsonl.1"), b"first".as_slice());
        first.expect("readable");
        let last = told(b"first\nlast");
        let last = last.strip_prefix(b"first\n").expect("it begins so");
        let last = verifier.file(Path::new("audit.jsonl"), last);
        last.expect("readable");
        let report = verifier.end(Extent::Whole);
        assert_eq!(report.problem_count, 0, "{:?}", report.problems);
    }

    #[test]
    fn a_file_full_of_rubbish_is_one_problem() {
        let verifier = reading(&b"rubbish\n".repeat(5_000));
        assert_eq!(verifier.end(Extent::Whole).problem_count, 1);
    }

    #[test]
    fn all_problems_are_counted_but_only_the_first_are_named() {
        // Each but the first is where another belongs.
        let report = reading(&LINE.repeat(MOST_PROBLEMS + 10)).end(Extent::Whole);
        let count = u64::try_from(MOST_PROBLEMS + 9).expect("few");
        assert_eq!(report.problem_count, count);
        assert_eq!(report.problems.len(), MOST_PROBLEMS);
        assert_eq!(report.problems[0].line, 2);
    }
}
