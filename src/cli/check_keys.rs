//! What `check` says of keys that are too short to last.

use crate::config::Config;
use crate::config::caller::CallerIdentity;
use crate::model::app::App;
use crate::protocol::key::{AppPrivateKey, RsaPublicKey};
use crate::sidecar::reply_key;

/// Below this a key loads, and is warned of, bits; contract §8.
const SAFE_BITS: usize = 2048;

/// The keys of `apps` and of the file that are short, a line each.
pub(crate) fn short_ones(config: &Config, apps: &[&App]) -> Vec<String> {
    let of_apps = apps.iter().flat_map(|app| of_app(app));
    let replies = reply_key(config).ok().flatten();
    let replies = replies.map(|key| ("`proxy.reply_key`".to_owned(), key.bits()));
    let callers = config.callers.iter().filter_map(|caller| {
        let CallerIdentity::PublicKey(key) = &caller.identity else {
            return None;
        };
        Some((
            format!("the public_key of caller {}", caller.name),
            key.bits(),
        ))
    });
    let all = of_apps.chain(replies).chain(callers);
    let short = all.filter(|(_, bits)| *bits < SAFE_BITS);
    let told = short.map(|(whose, bits)| {
        format!("{whose} has {bits} bits; make a new one of {SAFE_BITS} (RSA2)")
    });
    told.collect()
}

fn of_app(app: &App) -> Vec<(String, usize)> {
    let app_id = &app.app_id;
    let private = |text: &str| AppPrivateKey::from_text(text).ok().map(|key| key.bits());
    let own = private(app.private_key.expose());
    let own = own.map(|bits| (format!("the key of app {app_id}"), bits));
    let next = app.private_key_next.as_ref();
    let next = next.and_then(|next| private(next.expose()));
    let next = next.map(|bits| (format!("the private_key_next of app {app_id}"), bits));
    let platform = app.alipay_public_keys.iter().filter_map(|text| {
        let bits = RsaPublicKey::from_text(text).ok()?.bits();
        Some((format!("an alipay_public_key of app {app_id}"), bits))
    });
    own.into_iter().chain(next).chain(platform).collect()
}
