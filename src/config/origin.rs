//! Where the values of a configuration came from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::document::{Item, Place};
use crate::config::error::Fault;

/// Where each key was set, and what it refers to; what isn't here has its default.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    file: Option<PathBuf>,
    places: BTreeMap<String, Place>,
    references: BTreeMap<String, String>,
}

impl Origins {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            ..Self::default()
        }
    }

    /// Takes note of what stands at `key`.
    pub(super) fn note(&mut self, key: String, item: &Item) {
        if let Some(reference) = item.text().and_then(shown) {
            self.references.insert(key.clone(), reference);
        }
        self.places.insert(key, item.place.clone());
    }

    /// Takes note of a section, which has a place and no value.
    pub(super) fn note_section(&mut self, key: String, place: Place) {
        self.places.insert(key, place);
    }

    /// Takes note of the reference that a key has by default.
    pub(super) fn note_default(&mut self, key: &str, reference: &str) {
        self.references.insert(key.to_owned(), reference.to_owned());
    }

    pub(super) fn place(&self, key: &str) -> Option<&Place> {
        self.places.get(key)
    }

    /// The file that was read; `None`: there was none.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Keys that were set and where: `file:12` is a line of the file, `env:NAME` a variable of the
    /// environment.
    pub fn sources(&self) -> impl Iterator<Item = (&str, String)> {
        let is_key = |key: &str| key.contains('.') && !key.ends_with(']');
        let keys = self.places.iter().filter(move |(key, _)| is_key(key));
        keys.filter_map(|(key, place)| match place {
            Place::Line(line) => Some((key.as_str(), format!("file:{line}"))),
            Place::Nowhere => None,
            Place::Variable(name) => Some((key.as_str(), format!("env:{name}"))),
        })
    }

    /// References by key, as they were written; of `exec:` only that it is one, because commands have
    /// secrets among their arguments.
    pub(super) fn references(&self) -> impl Iterator<Item = (&str, &str)> {
        let references = self.references.iter();
        references.map(|(key, reference)| (key.as_str(), reference.as_str()))
    }

    /// `fault` with the place of its key, where it has none.
    #[must_use]
    pub fn placed(&self, fault: Fault) -> Fault {
        let (line, variable) = match self.places.get(&fault.key) {
            Some(Place::Line(line)) => (Some(*line), None),
            Some(Place::Variable(name)) => (None, Some(name.clone())),
            Some(Place::Nowhere) | None => (None, None),
        };
        Fault {
            file: fault.file.clone().or_else(|| self.file.clone()),
            line: fault.line.or(line),
            variable: fault.variable.clone().or(variable),
            ..fault
        }
    }
}

/// A reference as it may be shown.
fn shown(text: &str) -> Option<String> {
    let (kind, _) = text.split_once(':')?;
    match kind {
        "cred" | "env" | "file" => Some(text.to_owned()),
        "exec" => Some("exec:…".to_owned()),
        _ => None,
    }
}
