//! What a reload can't change.

use serde_json::Value;

use crate::config::Config;
use crate::config::error::{Fault, Mismatch};

impl Config {
    /// What `next` would change of this configuration, which is in force, and what only a start can:
    /// each `listen`, `webhook.base_path`, `[store]`.
    #[must_use]
    pub fn unreloadable(&self, next: &Self) -> Vec<Fault> {
        let listen = |config: &Self| {
            let listeners = [
                &config.proxy.listen,
                &config.webhook.listen,
                &config.admin.listen,
            ];
            listeners.map(ToString::to_string)
        };
        let [proxy, webhook, admin] = listen(self);
        let [next_proxy, next_webhook, next_admin] = listen(next);
        let path = |config: &Self| format!("redb:{}", config.store.path.display());
        let size = |config: &Self| super::view::size(config.store.cache as u64);
        let values = [
            ("proxy.listen", proxy, next_proxy),
            ("webhook.listen", webhook, next_webhook),
            (
                "webhook.base_path",
                self.webhook.base_path.clone(),
                next.webhook.base_path.clone(),
            ),
            ("admin.listen", admin, next_admin),
            ("store.url", path(self), path(next)),
            ("store.cache", size(self), size(next)),
        ];
        let changed = values.into_iter().filter(|(_, now, then)| now != then);
        let mut faults: Vec<_> = changed
            .map(|(key, now, then)| fixed(key, &now, &then))
            .collect();
        faults.extend(self.other_store_key(next));
        faults
    }

    /// The keys whose values are others in `next`, secrets and the contents of files aside.
    #[must_use]
    pub fn changed_keys(&self, next: &Self) -> Vec<String> {
        changed_values(&self.to_redacted_json(), &next.to_redacted_json())
    }

    /// Whether only a start can change `key`, as far as its name tells it.
    #[must_use]
    pub fn needs_restart(key: &str) -> bool {
        key.ends_with(".listen") || key == "webhook.base_path" || key.starts_with("store.")
    }

    fn other_store_key(&self, next: &Self) -> Option<Fault> {
        let text = |config: &Self| {
            let key = config.store.key.as_ref();
            key.map(|key| key.expose().trim().to_owned())
        };
        let found = "another key than the store was opened with (neither is shown)";
        let is_other = text(self) != text(next);
        is_other.then(|| Fault::of_key("store.key", Mismatch::new(found, "the same").hint(HINT)))
    }
}

/// The keys whose values in `then` are others than in `now`, both as
/// [`Config::to_redacted_json`] gives them.
pub(crate) fn changed_values(now: &Value, then: &Value) -> Vec<String> {
    let mut keys = Vec::new();
    collect_changed("", (now, then), &mut keys);
    keys
}

/// Lists are compared as a whole: their entries have no names.
fn collect_changed(path: &str, (now, then): (&Value, &Value), keys: &mut Vec<String>) {
    match (now, then) {
        (now, then) if now == then => {}
        (Value::Object(now), Value::Object(then)) if path.split('.').count() < 2 => {
            for (key, value) in now {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                let other = then.get(key).unwrap_or(&Value::Null);
                collect_changed(&path, (value, other), keys);
            }
        }
        _ => keys.push(path.to_owned()),
    }
}

fn fixed(key: &str, now: &str, then: &str) -> Fault {
    let mismatch = Mismatch::of_text(then, format!("{now:?}, as at the start"));
    Fault::of_key(key, mismatch.hint(HINT))
}

const HINT: &str = "only a restart changes this key; a reload changes all but `listen`, \
                    `webhook.base_path` and `[store]`";
