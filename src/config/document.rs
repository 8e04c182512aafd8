//! The configuration as a tree of values that know where they stand.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use crate::config::error::{Fault, Mismatch};

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

/// A value of the file, or the text of an environment variable, which has no type of its own.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Flag(bool),
    Integer(i64),
    List(Vec<Item>),
    Other(&'static str),
    Table(Table),
    Text(String),
    Variable(String),
}

/// Keys and their values.
pub(crate) type Table = BTreeMap<String, Item>;

/// Where a value stands.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A line of the file, counted from 1.
    Line(usize),
    /// Not in the file.
    Nowhere,
    /// The environment variable of this name.
    Variable(String),
}

impl Item {
    /// The text of a string or of a variable.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Variable(text) => Some(text),
            _ => None,
        }
    }

    /// The item with a variable's text read as TOML, where it is TOML.
    pub(crate) fn typed(&self) -> Self {
        let Value::Variable(text) = &self.value else {
            return self.clone();
        };
        let value = match DeValue::parse(text) {
            Ok(value) => convert(value.get_ref(), &|_| self.place.clone()),
            Err(_) => Value::Text(text.clone()),
        };
        Self {
            value,
            place: self.place.clone(),
        }
    }

    /// What kind of value it is, with its article.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Flag(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::List(_) => "a list",
            Value::Other(kind) => kind,
            Value::Table(_) => "a table",
            Value::Text(_) | Value::Variable(_) => "a string",
        }
    }
}

/// Reads the text of a file.
///
/// # Errors
/// Every fault of syntax. The offending text isn't shown: it may be a secret.
pub(crate) fn parse(text: &str) -> Result<Table, Vec<Fault>> {
    let lines = Lines::of(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let place = |offset: usize| Place::Line(lines.at(offset));
        return Ok(convert_table(root.get_ref(), &place));
    }
    let fault = |error: &toml::de::Error| Fault {
        file: None,
        line: error.span().map(|span| lines.at(span.start)),
        variable: None,
        key: String::new(),
        mismatch: syntax(error, text),
    };
    Err(errors.iter().map(fault).collect())
}

/// What is wrong with the syntax. A name that stands twice is told: names are no secrets.
fn syntax(error: &toml::de::Error, text: &str) -> Mismatch {
    let message = error.message();
    let name = error.span().and_then(|span| text.get(span));
    match name.filter(|name| message == "duplicate key" && is_name(name)) {
        Some(name) => Mismatch::new(
            format!("`{name}`, which stands there before"),
            "each section and each key once",
        )
        .hint("put what both say under one"),
        None => Mismatch::new(format!("a fault of syntax ({message})"), "TOML"),
    }
}

fn is_name(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    !text.is_empty() && text.len() <= 64 && text.bytes().all(is_part)
}

/// Where the lines of a text end.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The line, counted from 1, that the byte at `offset` stands in.
    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|end| *end < offset) + 1
    }
}

fn convert_table(table: &DeTable<'_>, place: &dyn Fn(usize) -> Place) -> Table {
    table
        .iter()
        .map(|(key, value)| {
            let item = Item {
                value: convert(value.get_ref(), place),
                place: place(key.span().start),
            };
            (key.get_ref().to_string(), item)
        })
        .collect()
}

fn convert(value: &DeValue<'_>, place: &dyn Fn(usize) -> Place) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map_or(Value::Other("an integer out of range"), Value::Integer),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| Item {
                    value: convert(item.get_ref(), place),
                    place: place(item.span().start),
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(convert_table(table, place)),
    }
}
