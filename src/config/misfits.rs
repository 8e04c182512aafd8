//! What a configuration that a program made itself may have wrong: reading one refuses the same,
//! each at its place.

use crate::config::Config;
use crate::config::admin::{self, AdminConfig};
use crate::config::caller::CallerConfig;
use crate::config::delivery::DeliveryConfig;
use crate::config::error::{Fault, Mismatch};
use crate::config::proxy::ProxyConfig;
use crate::config::upstream::UpstreamConfig;
use crate::config::webhook::{self, WebhookConfig};
use crate::config::{tls, url};

/// A rule of one value: gives it as it is kept.
type Parse = fn(&str) -> Result<String, Mismatch>;

impl Config {
    /// What is wrong with these values, whoever set them; nothing in one that was read. Of what they
    /// name nothing is looked at.
    #[must_use]
    pub fn misfits(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        faults.extend(of_admin(&self.admin));
        faults.extend(of_proxy(&self.proxy));
        faults.extend(of_webhook(&self.webhook));
        faults.extend(of_upstream(&self.upstream));
        faults.extend(of_delivery(&self.delivery));
        faults.extend(of_callers(&self.callers));
        faults.extend(halves(self));
        let twice = self.listeners_twice().into_iter();
        faults.extend(twice.map(|(key, mismatch)| Fault::of_key(key, mismatch)));
        faults
    }

    /// The listeners whose address one before them has.
    pub(crate) fn listeners_twice(&self) -> Vec<(&'static str, Mismatch)> {
        let listens = [
            ("proxy.listen", &self.proxy.listen),
            ("webhook.listen", &self.webhook.listen),
            ("admin.listen", &self.admin.listen),
        ];
        let mut faults = Vec::new();
        for (place, (key, listen)) in listens.iter().enumerate() {
            let mut before = listens.iter().take(place);
            if let Some((other, _)) = before.find(|(_, other)| other.collides(listen)) {
                let found = format!("\"{listen}\", where `{other}` listens");
                faults.push((*key, Mismatch::new(found, "an address of its own")));
            }
        }
        faults
    }
}

fn of_admin(admin: &AdminConfig) -> Option<Fault> {
    let mismatch = match &admin.token {
        None if admin.listen.is_local() => return None,
        None => Mismatch::new("nothing", admin::TOKEN_NEEDED),
        Some(token) => admin::check_token(token).err()?,
    };
    Some(Fault::of_key("admin.token", mismatch))
}

fn of_proxy(proxy: &ProxyConfig) -> Vec<Fault> {
    let prefixes = proxy.notify_url_allow.iter();
    let faults = prefixes.filter_map(|text| kept("proxy.notify_url_allow", text, url::prefix));
    faults.collect()
}

fn of_webhook(webhook: &WebhookConfig) -> Vec<Fault> {
    let base_path = match webhook.base_path.as_str() {
        // It is kept so that routes can be put behind it.
        "" => None,
        path => kept("webhook.base_path", path, webhook::base_path),
    };
    let urls: [(&str, &Option<String>, Parse); 4] = [
        ("webhook.public_url", &webhook.public_url, url::public),
        (
            "webhook.auth_return_url",
            &webhook.auth_return_url,
            url::any,
        ),
        (
            "webhook.user_auth_return_url",
            &webhook.user_auth_return_url,
            url::any,
        ),
        (
            "webhook.auth_redirect_uri",
            &webhook.auth_redirect_uri,
            url::any,
        ),
    ];
    let aliases = webhook.aliases.iter().filter_map(|(old, route)| {
        let mismatch = webhook::alias(old, route, &webhook.base_path).err()?;
        Some(Fault::of_key("webhook.aliases", mismatch))
    });
    base_path
        .into_iter()
        .chain(set(urls))
        .chain(aliases)
        .collect()
}

fn of_upstream(upstream: &UpstreamConfig) -> Vec<Fault> {
    let urls: [(&str, &Option<String>, Parse); 4] = [
        ("upstream.gateway", &upstream.gateway, url::upstream),
        ("upstream.v3", &upstream.v3, url::upstream_origin),
        (
            "upstream.authorize",
            &upstream.authorize,
            url::upstream_origin,
        ),
        ("upstream.proxy", &upstream.proxy, url::egress),
    ];
    set(urls).collect()
}

fn of_delivery(delivery: &DeliveryConfig) -> Vec<Fault> {
    let (tells, url) = (delivery.tells_tokens(), delivery.url.as_deref());
    let tells = tells.map(|mismatch| Fault::of_key("delivery.authorization", mismatch));
    let url = url.and_then(|text| kept("delivery.url", text, url::any));
    let routes = delivery.routes.iter().zip(1..).filter_map(|(route, n)| {
        let mismatch = url::any(&route.url).err()?;
        Some(Fault::of_key(&format!("delivery.route[{n}].url"), mismatch))
    });
    tells.into_iter().chain(url).chain(routes).collect()
}

/// A uid is taken whatever `proxy.listen` says: the services may be mounted on a unix socket.
fn of_callers(callers: &[CallerConfig]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (place, caller) in callers.iter().enumerate() {
        let before = callers.get(..place).unwrap_or_default();
        let found = caller.clashes(before).into_iter();
        faults.extend(found.map(|(key, mismatch)| {
            let key = format!("caller[{}].{key}", place + 1);
            Fault::of_key(&key, mismatch)
        }));
    }
    faults
}

/// Of a certificate and its key one alone: the listener would speak plain HTTP.
fn halves(config: &Config) -> Vec<Fault> {
    let Config {
        proxy,
        webhook,
        admin,
        ..
    } = config;
    let pairs = [
        ("proxy", &proxy.tls_cert, &proxy.tls_key),
        ("webhook", &webhook.tls_cert, &webhook.tls_key),
        ("admin", &admin.tls_cert, &admin.tls_key),
    ];
    let half = pairs.into_iter().filter_map(|(section, cert, key)| {
        let (missing, expected) = match (cert, key) {
            (Some(_), None) => ("tls_key", tls::KEY_NEEDED),
            (None, Some(_)) => ("tls_cert", tls::CERT_NEEDED),
            _ => return None,
        };
        let mismatch = Mismatch::new("nothing", expected);
        Some(Fault::of_key(&format!("{section}.{missing}"), mismatch))
    });
    half.collect()
}

/// What is wrong with those that are set.
fn set<'c>(values: [(&'c str, &'c Option<String>, Parse); 4]) -> impl Iterator<Item = Fault> + 'c {
    let given = values.into_iter();
    given.filter_map(|(key, value, parse)| kept(key, value.as_deref()?, parse))
}

/// What is wrong with a value that isn't one, or isn't written as it is kept.
fn kept(key: &str, text: &str, parse: Parse) -> Option<Fault> {
    let mismatch = match parse(text) {
        Ok(kept) if kept == text => return None,
        Ok(kept) => Mismatch::of_text(text, format!("\"{kept}\"")),
        Err(mismatch) => mismatch,
    };
    Some(Fault::of_key(key, mismatch))
}
