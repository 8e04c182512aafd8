//! Reading one table: each key is asked for once, with what it takes; what nobody asked for is
//! unknown.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::config::document::{Item, Place, Table, Value};
use crate::config::error::{ConfigErrors, Fault, Mismatch, quoted};
use crate::config::origin::Origins;
use crate::config::reference::References;
use crate::config::value;
use crate::protocol::secret::Secret;

/// The prefix of the environment variables that stand over the file.
pub(crate) const VARIABLE_PREFIX: &str = "ALIPAY_SIDECAR_";

/// One reading of a configuration: what every section shares, and the faults found so far.
pub(crate) struct Reading {
    file: Option<PathBuf>,
    references: References,
    faults: RefCell<Vec<Fault>>,
    known: RefCell<BTreeSet<String>>,
    origins: RefCell<Origins>,
}

impl Reading {
    pub(crate) fn new(file: Option<&Path>, references: References) -> Self {
        Self {
            file: file.map(Path::to_owned),
            references,
            faults: RefCell::default(),
            known: RefCell::default(),
            origins: RefCell::new(Origins::new(file.map(Path::to_owned))),
        }
    }

    pub(crate) fn references(&self) -> &References {
        &self.references
    }

    /// Records what is wrong with `key`.
    pub(crate) fn fault(&self, key: &str, place: &Place, mismatch: Mismatch) {
        let (line, variable) = match place {
            Place::Line(line) => (Some(*line), None),
            Place::Nowhere => (None, None),
            Place::Variable(name) => (None, Some(name.clone())),
        };
        self.faults.borrow_mut().push(Fault {
            file: self.file.clone(),
            line,
            variable,
            key: key.to_owned(),
            mismatch,
        });
    }

    /// Records faults of keys that were read, each at its key's place, but for
    /// keys that have a fault already.
    pub(crate) fn faults_of_keys(&self, faults: Vec<Fault>) {
        for fault in faults {
            let is_known = |other: &Fault| other.key == fault.key;
            if self.faults.borrow().iter().any(is_known) {
                continue;
            }
            let place = self.origins.borrow().place(&fault.key).cloned();
            self.fault(&fault.key, &place.unwrap_or(Place::Nowhere), fault.mismatch);
        }
    }

    /// Whether something is wrong with a section of the list `name`.
    pub(crate) fn has_fault_below(&self, name: &str) -> bool {
        let is_below = |fault: &Fault| {
            let rest = fault.key.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with('['))
        };
        self.faults.borrow().iter().any(is_below)
    }

    /// Records faults that were found before the file's name was known.
    pub(crate) fn faults(&self, faults: Vec<Fault>) {
        let named = faults.into_iter().map(|fault| Fault {
            file: self.file.clone(),
            ..fault
        });
        self.faults.borrow_mut().extend(named);
    }

    /// Where everything that was read stands.
    pub(crate) fn origins(&self) -> Origins {
        self.origins.borrow().clone()
    }

    /// Takes note of the reference that `key` has where nothing is said.
    pub(crate) fn note_default(&self, key: &str, reference: &str) {
        self.origins.borrow_mut().note_default(key, reference);
    }

    /// Every key that was asked for, such as `proxy.listen`.
    pub(crate) fn known(&self) -> BTreeSet<String> {
        self.known.borrow().clone()
    }

    /// # Errors
    /// All faults, if there are any.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, ConfigErrors> {
        let faults = self.faults.into_inner();
        if faults.is_empty() {
            Ok(value)
        } else {
            Err(ConfigErrors::new(faults))
        }
    }
}

/// One table of the configuration.
pub(crate) struct Section<'r> {
    pub(crate) reading: &'r Reading,
    name: &'static str,
    path: String,
    place: Place,
    entries: Table,
    asked: RefCell<Vec<&'static str>>,
}

impl<'r> Section<'r> {
    /// The section `name` of the root table, with the environment over it.
    pub(crate) fn of_root(
        reading: &'r Reading,
        root: &mut Table,
        variables: &mut BTreeMap<String, Table>,
        name: &'static str,
    ) -> Self {
        let (mut entries, place) = match root.remove(name) {
            Some(Item {
                value: Value::Table(entries),
                place,
            }) => (entries, place),
            Some(other) => {
                let found = Mismatch::new(other.kind(), format!("a section `[{name}]`"));
                reading.fault(name, &other.place, found);
                (Table::new(), other.place)
            }
            None => (Table::new(), Place::Nowhere),
        };
        entries.extend(variables.remove(name).unwrap_or_default());
        Self::new(reading, (name, name.to_owned()), place, entries)
    }

    /// The tables of the list `item`, called `name`, or `path` with a number behind it.
    pub(crate) fn of_list(
        reading: &'r Reading,
        (name, path): (&'static str, &str),
        item: Option<Item>,
    ) -> Vec<Self> {
        let Some(item) = item.map(|item| item.typed()) else {
            return Vec::new();
        };
        let wrong = |found: &Item| {
            let expected = format!("sections `[[{name}]]`");
            reading.fault(path, &found.place, Mismatch::new(found.kind(), expected));
        };
        let Value::List(tables) = item.value else {
            wrong(&item);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, table) in tables.into_iter().enumerate() {
            let path = format!("{path}[{}]", index + 1);
            match table.value {
                Value::Table(entries) => {
                    sections.push(Self::new(reading, (name, path), table.place, entries));
                }
                _ => wrong(&table),
            }
        }
        sections
    }

    fn new(
        reading: &'r Reading,
        (name, path): (&'static str, String),
        place: Place,
        entries: Table,
    ) -> Self {
        let mut origins = reading.origins.borrow_mut();
        origins.note_section(path.clone(), place.clone());
        for (key, item) in &entries {
            origins.note(format!("{path}.{key}"), item);
        }
        drop(origins);
        Self {
            reading,
            name,
            path,
            place,
            entries,
            asked: RefCell::default(),
        }
    }

    /// The item under `key`, which from now on is a known key.
    pub(crate) fn item(&self, key: &'static str) -> Option<&Item> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
            let known = format!("{}.{key}", self.name);
            self.reading.known.borrow_mut().insert(known);
        }
        self.entries.get(key)
    }

    /// Takes the item under `key` out, for a key that holds sections.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Item> {
        self.item(key)?;
        self.entries.remove(key)
    }

    /// Records what is wrong with `key`, wherever it was set.
    pub(crate) fn fault(&self, key: &'static str, mismatch: Mismatch) {
        let place = self.item(key).map_or(&self.place, |item| &item.place);
        self.fault_at(key, &place.clone(), mismatch);
    }

    fn fault_at(&self, key: &str, place: &Place, mismatch: Mismatch) {
        let key = format!("{}.{key}", self.path);
        self.reading.fault(&key, place, mismatch);
    }

    /// Records that `key`, which must be set, isn't; silent where it was set, but wrongly.
    pub(crate) fn require(&self, key: &'static str, expected: &str) {
        let is_empty = |item: &Item| item.text().is_some_and(str::is_empty);
        if self.item(key).is_none_or(is_empty) {
            self.fault(key, Mismatch::new("nothing", expected));
        }
    }

    /// A string, parsed. `None`: absent, or wrong and recorded.
    pub(crate) fn text<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Mismatch>,
    ) -> Option<T> {
        let item = self.item(key)?;
        match item.text() {
            Some(text) => self.parsed(key, item, parse(text)),
            None => {
                // What its text would have to be tells more than that it has to be one.
                let Value::Integer(integer) = item.value else {
                    return self.wrong_kind(key, item, "a string");
                };
                let expected = parse(&integer.to_string()).err();
                let expected =
                    expected.map_or_else(|| "a string".to_owned(), |error| error.expected);
                let mismatch = Mismatch::new(item.kind(), expected).hint("write it in quotes");
                self.parsed(key, item, Err(mismatch))
            }
        }
    }

    /// As [`Self::text`], where the empty string means “not set”.
    pub(crate) fn optional<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Mismatch>,
    ) -> Option<T> {
        self.text(key, |text| match text {
            "" => Ok(None),
            text => parse(text).map(Some),
        })
        .flatten()
    }

    /// The secret that a reference names; empty: not set.
    pub(crate) fn secret(&self, key: &'static str) -> Option<Secret<String>> {
        self.optional(key, |text| self.reading.references.secret(text))
    }

    /// As [`Section::secret`], of a form that `check` knows; what it says must not show the secret.
    pub(crate) fn secret_of_form(
        &self,
        key: &'static str,
        check: impl Fn(&Secret<String>) -> Result<(), Mismatch>,
    ) -> Option<Secret<String>> {
        self.optional(key, |text| {
            let secret = self.reading.references.secret(text)?;
            check(&secret).map(|()| secret)
        })
    }

    /// The path of a secret file; empty: not set.
    pub(crate) fn secret_file(&self, key: &'static str) -> Option<PathBuf> {
        self.optional(key, |text| self.reading.references.secret_file(text))
    }

    /// The path of a public file; empty: not set. One that is missing here, or may not be read, is a
    /// fault, and has its path all the same: who only asks a sidecar must know that it speaks TLS. What
    /// is no file has none: nobody opens it, which may take for ever.
    pub(crate) fn public_file(&self, key: &'static str) -> Option<PathBuf> {
        self.optional(key, |text| {
            let references = &self.reading.references;
            match references.public_file(text) {
                Err(mismatch) if mismatch.is_elsewhere => {
                    self.fault(key, mismatch);
                    Ok(references.public_path(text))
                }
                other => other,
            }
        })
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.text(key, |text| {
            let known = words.iter().find(|(word, _)| *word == text);
            known.map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<String> = words.iter().map(|(word, _)| quoted(word)).collect();
                Mismatch::of_text(text, words.join(" or "))
            })
        })
    }

    /// A boolean.
    pub(crate) fn flag(&self, key: &'static str) -> Option<bool> {
        let item = self.item(key)?.typed();
        match item.value {
            Value::Flag(flag) => Some(flag),
            _ => self.wrong_kind(key, &item, "true or false"),
        }
    }

    /// An integer within `range`.
    pub(crate) fn integer(&self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let item = self.item(key)?.typed();
        match item.value {
            Value::Integer(integer) => self.parsed(key, &item, value::within(integer, &range)),
            _ => self.wrong_kind(key, &item, &value::integer_from(&range)),
        }
    }

    /// A list of strings, each parsed.
    pub(crate) fn list<T>(
        &self,
        key: &'static str,
        mut parse: impl FnMut(&str) -> Result<T, Mismatch>,
    ) -> Option<Vec<T>> {
        let item = self.item(key)?.typed();
        let Value::List(items) = &item.value else {
            return self.wrong_kind(key, &item, "a list of strings");
        };
        let parsed = items.iter().map(|item| match item.text() {
            Some(text) => self.parsed(key, item, parse(text)),
            None => self.wrong_kind(key, item, "a list of strings"),
        });
        // All are parsed before the first wrong one ends the list, so that all are reported.
        parsed.collect::<Vec<_>>().into_iter().collect()
    }

    /// A table of strings, each pair parsed.
    pub(crate) fn map<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str, &str) -> Result<T, Mismatch>,
    ) -> Option<Vec<T>> {
        let item = self.item(key)?.typed();
        let Value::Table(table) = &item.value else {
            return self.wrong_kind(key, &item, "a table of strings");
        };
        let parsed = table.iter().map(|(name, item)| match item.text() {
            Some(text) => self.parsed(key, item, parse(name, text)),
            None => self.wrong_kind(key, item, "a table of strings"),
        });
        parsed.collect::<Vec<_>>().into_iter().collect()
    }

    /// Records every key that nobody asked for.
    pub(crate) fn finish(&self) {
        let asked = self.asked.borrow();
        for (key, item) in &self.entries {
            if !asked.contains(&key.as_str()) {
                let known = asked.iter().copied();
                self.fault_at(key, &item.place, unknown("key", key, known));
            }
        }
    }

    fn wrong_kind<T>(&self, key: &str, item: &Item, expected: &str) -> Option<T> {
        let mismatch = Mismatch::new(item.kind(), expected);
        self.fault_at(key, &item.place, mismatch);
        None
    }

    fn parsed<T>(&self, key: &str, item: &Item, parsed: Result<T, Mismatch>) -> Option<T> {
        parsed
            .map_err(|mismatch| self.fault_at(key, &item.place, mismatch))
            .ok()
    }
}

/// The fault of a `thing` that doesn't exist, with the nearest that does.
pub(crate) fn unknown<'k>(
    thing: &str,
    name: &str,
    known: impl Iterator<Item = &'k str> + Clone,
) -> Mismatch {
    let expected = format!("a known {thing}");
    let found = Mismatch::new(format!("an unknown {thing}"), expected);
    match nearest(name, known.clone()) {
        Some(candidate) => found.hint(format!("did you mean `{candidate}`?")),
        None => {
            let known: Vec<&str> = known.collect();
            found.hint(format!("known here: {}", known.join(", ")))
        }
    }
}

/// The one of `known` that `name` is likely to be a misspelling of.
pub(crate) fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let nearest = known
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .min();
    let (distance, candidate) = nearest?;
    (distance <= MOST_EDITS.max(candidate.len() / 3)).then_some(candidate)
}

/// How many edits make a typing mistake; more is another word.
const MOST_EDITS: usize = 2;
