//! Alipay has two worlds, and nothing of one may reach the other: contract §8, “never mixed”.

use http::Uri;

use crate::config::Config;
use crate::config::error::Mismatch;
use crate::config::upstream::UpstreamConfig;
use crate::model::app::{App, Environment};
use crate::model::app_keys::AppKeys;

/// The domain below which the sandbox's addresses are.
const SANDBOX: &str = "alipaydev.com";
/// The domain below which those of production are.
const PRODUCTION: &str = "alipay.com";

impl Config {
    /// The keys of `[upstream]` by which an app would call one world in v2 and the other in v3 or on
    /// the pages that authorise.
    pub(crate) fn mixed(&self) -> Vec<(&'static str, Mismatch)> {
        let mut found: Vec<(&'static str, Mismatch)> = Vec::new();
        for mixture in self
            .apps
            .iter()
            .filter_map(|app| mixture(app, &self.upstream))
        {
            if found.iter().all(|(key, _)| *key != mixture.0) {
                found.push(mixture);
            }
        }
        found
    }
}

/// The key of `[upstream]` by which `app` would use both worlds.
#[must_use]
pub fn mixture(app: &App, upstream: &UpstreamConfig) -> Option<(&'static str, Mismatch)> {
    let endpoints = upstream.endpoints(app.environment);
    let gateway = world_of(&endpoints.gateway)?;
    let others = [
        ("v3", &endpoints.v3, upstream.v3.is_some()),
        (
            "authorize",
            &endpoints.authorize,
            upstream.authorize.is_some(),
        ),
    ];
    let differs = |url: &str| world_of(url).is_some_and(|world| world != gateway);
    let (key, url, is_set) = others.into_iter().find(|(_, url, _)| differs(url))?;
    let app_id = &app.app_id;
    let mismatch = Mismatch::new(
        format!(
            "{} for the gateway of app {app_id} and {url} for `{key}`",
            endpoints.gateway
        ),
        "addresses of one environment",
    );
    let hint = "write `environment` into the [[app]], and leave these keys of [upstream] away";
    // At least one of them was set: what each environment has by itself fits.
    let key = if is_set { key } else { "gateway" };
    Some((key, mismatch.hint(hint)))
}

/// What looks like the two worlds in one, and isn't surely wrong; one line each.
#[must_use]
pub fn advice(apps: &[&App], upstream: &UpstreamConfig) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(half_set(apps, upstream));
    lines.extend(apps.iter().filter_map(|app| foreign(app, upstream)));
    lines.extend(shared_gateway(apps, upstream));
    lines.extend(shared_keys(apps));
    lines
}

/// An egress of one's own for v2 and not for v3, or the other way round.
fn half_set(apps: &[&App], upstream: &UpstreamConfig) -> Option<String> {
    let (set, unset) = match (&upstream.gateway, &upstream.v3) {
        (Some(_), None) => ("gateway", "v3"),
        (None, Some(_)) => ("v3", "gateway"),
        _ => return None,
    };
    let app = apps.first()?;
    let endpoints = upstream.endpoints(app.environment);
    Some(format!(
        "`upstream.{set}` is set and `upstream.{unset}` isn't: app {} ({}) calls {} in v2 and {} in v3; \
         set both or neither",
        app.app_id,
        app.environment.as_str(),
        endpoints.gateway,
        endpoints.v3
    ))
}

/// An app of one world whose gateway is the other's: `[upstream]` wins.
fn foreign(app: &App, upstream: &UpstreamConfig) -> Option<String> {
    let gateway = upstream.endpoints(app.environment).gateway;
    let world = world_of(&gateway)?;
    let (app_id, named) = (&app.app_id, app.environment.as_str());
    (world != app.environment).then(|| {
        format!(
            "app {app_id} is of `environment = \"{named}\"`, and `upstream.gateway` sends it to {gateway}, \
             which belongs to {}; set its `environment`, and leave [upstream] away",
            world.as_str()
        )
    })
}

fn shared_gateway(apps: &[&App], upstream: &UpstreamConfig) -> Option<String> {
    let gateway = upstream.gateway.as_ref()?;
    let of = |environment| apps.iter().find(|app| app.environment == environment);
    let (production, sandbox) = (of(Environment::Production)?, of(Environment::Sandbox)?);
    Some(format!(
        "app {} of production and app {} of the sandbox call the same {gateway}, because \
         `upstream.gateway` wins over `environment`; run one sidecar for each",
        production.app_id, sandbox.app_id
    ))
}

/// A key pair that both worlds know: what the sandbox's users see of it counts in production.
fn shared_keys(apps: &[&App]) -> Vec<String> {
    let of = |environment| {
        apps.iter()
            .filter(move |app| app.environment == environment)
    };
    let key = |app: &App| app.parse_keys().ok().map(|keys| public_keys(&keys));
    let mut lines = Vec::new();
    for sandbox in of(Environment::Sandbox) {
        let Some(own) = key(sandbox) else { continue };
        let same = |app: &&&App| {
            let others = key(app).unwrap_or_default();
            others.iter().any(|other| own.contains(other))
        };
        if let Some(production) = of(Environment::Production).find(same) {
            lines.push(format!(
                "app {} of the sandbox and app {} of production have the same key pair; make one of its \
                 own for each",
                sandbox.app_id, production.app_id
            ));
        }
    }
    lines
}

fn public_keys(keys: &AppKeys) -> Vec<String> {
    let keys = std::iter::once(&keys.current).chain(&keys.next);
    keys.map(|key| key.public.fingerprint()).collect()
}

/// The world that an address of Alipay's is in; `None`: it is somebody else's.
fn world_of(url: &str) -> Option<Environment> {
    let url: Uri = url.parse().ok()?;
    let host = url.host()?.to_ascii_lowercase();
    let is_below = |domain: &str| {
        let rest = host.strip_suffix(domain);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    match (is_below(SANDBOX), is_below(PRODUCTION)) {
        (true, _) => Some(Environment::Sandbox),
        (_, true) => Some(Environment::Production),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::secret::Secret;
    use crate::protocol::signature::SignType;

    fn app(environment: Environment) -> App {
        App {
            app_id: "2021000000000001".parse().expect("an id"),
            private_key: Secret::new("key".to_owned()).into(),
            private_key_next: None,
            alipay_public_keys: Vec::new(),
            certificates: None,
            encrypt_key: None,
            environment,
            sign_type: SignType::Rsa2,
        }
    }

    fn upstream(gateway: Option<&str>, v3: Option<&str>) -> UpstreamConfig {
        UpstreamConfig {
            gateway: gateway.map(str::to_owned),
            v3: v3.map(str::to_owned),
            ..UpstreamConfig::default()
        }
    }

    const SANDBOX_GATEWAY: &str = "https://openapi-sandbox.dl.alipaydev.com/gateway.do";
    const EGRESS: &str = "https://egress.example.com";

    #[test]
    fn one_app_never_calls_both_worlds() {
        use Environment::{Production, Sandbox};
        for (environment, gateway, v3, expected) in [
            (Production, None, None, None),
            (Sandbox, None, None, None),
            (Production, Some(SANDBOX_GATEWAY), None, Some("gateway")),
            (Sandbox, Some(SANDBOX_GATEWAY), None, None),
            (
                Sandbox,
                None,
                Some("https://openapi.alipay.com"),
                Some("v3"),
            ),
            (
                Production,
                None,
                Some("https://openapi-sandbox.dl.alipaydev.com"),
                Some("v3"),
            ),
            (Production, None, Some("https://evilalipaydev.com"), None),
            (Production, None, Some(EGRESS), None),
            (
                Sandbox,
                Some("https://egress.example.com/gateway.do"),
                Some(EGRESS),
                None,
            ),
        ] {
            let found = mixture(&app(environment), &upstream(gateway, v3));
            let key = found.as_ref().map(|(key, _)| *key);
            assert_eq!(key, expected, "{environment:?} {gateway:?} {v3:?}");
        }
    }

    #[test]
    fn what_is_doubtful_is_told() {
        let (production, sandbox) = (app(Environment::Production), app(Environment::Sandbox));
        let one = |app: &App, upstream: UpstreamConfig| advice(&[app], &upstream).join("\n");
        assert_eq!(one(&sandbox, upstream(None, None)), "");
        let half = one(&sandbox, upstream(None, Some(EGRESS)));
        assert!(half.contains("`upstream.v3` is set and `upstream.gateway` isn't"));
        assert!(
            half.contains(SANDBOX_GATEWAY) && half.contains(EGRESS),
            "{half}"
        );
        let foreign = one(&production, upstream(Some(SANDBOX_GATEWAY), Some(EGRESS)));
        assert!(foreign.contains("which belongs to sandbox"), "{foreign}");
        let both = advice(
            &[&production, &sandbox],
            &upstream(Some(EGRESS), Some(EGRESS)),
        );
        assert_eq!(both.len(), 1, "{both:?}");
        assert!(both[0].contains("call the same https://egress.example.com"));
    }
}
