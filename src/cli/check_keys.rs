//! What `check` says of keys that are too short to last.

use crate::config::Config;
use crate::config::caller::CallerIdentity;
use crate::model::app::App;
use crate::protocol::key::RsaPublicKey;
use crate::sidecar::reply_key;

/// Below this a key loads, and is warned of, bits; contract §8.
const SAFE_BITS: usize = 2048;

/// What makes a longer one.
const NEW: &str = "make a new one of 2048 (RSA2)";
/// Nobody but Alipay makes its keys.
const ALIPAYS: &str =
    "set the app to RSA2 in Alipay's console, and copy the key that it then shows";

/// A key that is there: whose, how long, and how a longer one is had.
type Found = (String, usize, &'static str);

/// The keys of `apps` and of the file that are short, a line each.
pub(crate) fn short_ones(config: &Config, apps: &[&App]) -> Vec<String> {
    let of_apps = apps.iter().flat_map(|app| of_app(app));
    let replies = reply_key(config).ok().flatten();
    let replies = replies.map(|key| ("`proxy.reply_key`".to_owned(), key.bits(), NEW));
    let callers = config.callers.iter().filter_map(|caller| {
        let CallerIdentity::PublicKey(key) = &caller.identity else {
            return None;
        };
        let whose = format!("the public_key of caller {}", caller.name);
        Some((whose, key.bits(), NEW))
    });
    let all = of_apps.chain(replies).chain(callers);
    let short = all.filter(|(_, bits, _)| *bits < SAFE_BITS);
    let told = short.map(|(whose, bits, how)| format!("{whose} has {bits} bits; {how}"));
    told.collect()
}

/// The apps whose next key is the one that they have: nothing would change hands.
pub(crate) fn same_ones(apps: &[&App]) -> Vec<String> {
    let is_same = |app: &&&App| {
        let (current, next) = app.public_keys();
        next.is_some() && next == current
    };
    let same = apps.iter().filter(is_same).map(|app| {
        let app_id = &app.app_id;
        format!(
            "the private_key_next of app {app_id} is its private_key, so nothing changes; make a new key"
        )
    });
    same.collect()
}

fn of_app(app: &App) -> Vec<Found> {
    let app_id = &app.app_id;
    let (own, next) = app.public_keys();
    let own = own.map(|key| (format!("the key of app {app_id}"), key.bits(), NEW));
    let whose = || format!("the private_key_next of app {app_id}");
    let next = next.map(|key| (whose(), key.bits(), NEW));
    let platform = app.alipay_public_keys.iter().filter_map(|text| {
        let bits = RsaPublicKey::from_text(text).ok()?.bits();
        let whose = format!("an alipay_public_key of app {app_id}");
        Some((whose, bits, ALIPAYS))
    });
    own.into_iter().chain(next).chain(platform).collect()
}
