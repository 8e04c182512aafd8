//! Lists: a page and where the next one begins.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A page of a list.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct Page<T> {
    /// What is on the page.
    pub items: Vec<T>,
    /// What `after` is for the next page; `None`: this is the last.
    pub next: Option<String>,
    /// Whose records can't be read (`app_id/auth_app_id`, or the row of an index that doesn't tell
    /// whose it is), in lists of merchants; left out where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
}

impl<T> Page<T> {
    /// The page that `items`, read with one more than `limit`, make.
    pub(crate) fn cut(mut items: Vec<T>, limit: usize, id: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(id) } else { None };
        Self {
            items,
            next,
            damaged: Vec::new(),
        }
    }

    /// A list that is on one page.
    pub(crate) fn whole(items: Vec<T>) -> Self {
        Self {
            items,
            next: None,
            damaged: Vec::new(),
        }
    }
}

/// How many items a page has when nobody says.
pub const DEFAULT_LIMIT: usize = 100;

/// The most that are given at once.
pub const LARGEST_LIMIT: usize = 1000;
