//! Which environment variables hold secrets: those that `env:` references name.

use std::collections::BTreeSet;
use std::path::Path;

use crate::config::document::{self, Item, Place, Table, Value};
use crate::config::section::VARIABLE_PREFIX;

/// The variables from which the configuration at `path`, with `environment` over it, takes
/// secrets. One that can't be read names none: whoever loads it says why.
#[must_use]
pub fn secret_variables(path: &Path, environment: &[(String, String)]) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    secret_variables_of_text(&text, environment)
}

/// The same for the text of a configuration.
#[must_use]
pub fn secret_variables_of_text(text: &str, environment: &[(String, String)]) -> BTreeSet<String> {
    let environment = environment.iter();
    named(
        text,
        environment.map(|(name, value)| (name.as_str(), value.as_str())),
    )
}

/// The same for the text of a file.
pub(super) fn named<'e>(
    text: &str,
    environment: impl Iterator<Item = (&'e str, &'e str)>,
) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if let Ok(root) = document::parse(text) {
        of_table(&root, &mut names);
    }
    for (_, value) in environment.filter(|(name, _)| name.starts_with(VARIABLE_PREFIX)) {
        let item = Item {
            value: Value::Variable(value.to_owned()),
            place: Place::Nowhere,
        };
        of_value(&item.typed().value, &mut names);
    }
    names
}

fn of_table(table: &Table, names: &mut BTreeSet<String>) {
    for item in table.values() {
        of_value(&item.value, names);
    }
}

fn of_value(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::List(items) => items.iter().for_each(|item| of_value(&item.value, names)),
        Value::Table(table) => of_table(table, names),
        Value::Text(text) | Value::Variable(text) => {
            names.extend(text.strip_prefix("env:").map(str::to_owned));
        }
        Value::Flag(_) | Value::Integer(_) | Value::Other(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_anywhere_in_the_file_and_in_variables_over_it_are_found() {
        let text = r#"
            # token = "env:COMMENT"
            [admin]
            token = "env:ADMIN"
            [[app]]
            private_key = "env:KEY"
            alipay_public_key = ["file:env:no", "env:PUBLIC"]
            [[caller]]
            name = "env is no reference"
        "#;
        let environment = [
            ("ALIPAY_SIDECAR_STORE__KEY", "env:STORE"),
            ("ALIPAY_SIDECAR_PROXY__ALLOWED_HOSTS", r#"["env:LISTED"]"#),
            ("OTHER", "env:OTHER"),
        ];
        let names = named(text, environment.into_iter());
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(names, ["ADMIN", "KEY", "LISTED", "PUBLIC", "STORE"]);
        assert!(named("no = TOML = here", std::iter::empty()).is_empty());
    }
}
