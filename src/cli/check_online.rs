//! `check --online`: what only shows by asking Alipay, and by going to the public address.

use std::collections::BTreeSet;

use http::{Method, Uri};
use serde::Serialize;

use crate::admin::apps::AppView;
use crate::admin::authorizations::VerdictView;
use crate::admin::look::{AppLook, V3Look};
use crate::admin::merchants::MerchantView;
use crate::admin::page::Page;
use crate::cli::admin_client::{AdminClient, encoded};
use crate::cli::check_running::Running;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::records;
use crate::config::Config;
use crate::webhook::own_address::OwnAddressView;

/// How many merchants are asked about; `merchant verify --all` asks about all, at its own pace.
const MERCHANTS: usize = 50;
/// How far clocks may differ before it is worth a word, seconds.
const CLOCK: i64 = 30;

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Looks {
    apps: Vec<AppLook>,
    merchants: Vec<VerdictView>,
    /// Whether there are more merchants than were asked about.
    more_merchants: bool,
    /// How many weren't asked about because their app isn't taken, wasn't reached, or isn't there.
    merchants_skipped: usize,
    /// How many of these have an app that is neither configured nor stored.
    merchants_without_app: usize,
    public_address: Vec<OwnAddressView>,
    /// Why the public address wasn't looked at.
    public_address_skipped: Option<&'static str>,
    /// What stands on the way to Alipay.
    proxy: Option<String>,
}

/// Looks at everything, through `running`, which runs with this configuration, or without it.
pub(crate) async fn look(
    context: &Context,
    config: &Config,
    running: Option<&Running>,
) -> Result<Looks, Failure> {
    match running {
        Some(running) => look_through(&running.client, config, true).await,
        None => look_through(&AdminClient::here(context).await?, config, false).await,
    }
}

async fn look_through(
    client: &AdminClient,
    config: &Config,
    is_running: bool,
) -> Result<Looks, Failure> {
    let page: Page<AppView> = client.get("/api/apps").await?;
    let mut apps: Vec<AppLook> = Vec::new();
    for app in &page.items {
        let path = format!("/api/apps/{}/check", encoded(&app.app_id));
        apps.push(client.change(Method::POST, &path, Vec::new()).await?);
    }
    let merchants = merchants(client, &apps).await?;
    let (public_address, public_address_skipped) = if config.webhook.public_url.is_none() {
        (Vec::new(), Some("webhook.public_url isn't set"))
    } else if is_running {
        let path = "/api/webhook/check";
        let page: Page<OwnAddressView> = client.change(Method::POST, path, Vec::new()).await?;
        (page.items, None)
    } else {
        (Vec::new(), Some(NOT_RUNNING))
    };
    Ok(Looks {
        apps,
        merchants: merchants.verdicts,
        more_merchants: merchants.more,
        merchants_skipped: merchants.skipped,
        merchants_without_app: merchants.without_app,
        public_address,
        public_address_skipped,
        proxy: config.upstream.proxy.clone(),
    })
}

struct Merchants {
    verdicts: Vec<VerdictView>,
    more: bool,
    skipped: usize,
    without_app: usize,
}

/// The verdicts on the first merchants whose authorisation stands, of apps that Alipay takes: about
/// those of others the same would be told again and again.
async fn merchants(client: &AdminClient, apps: &[AppLook]) -> Result<Merchants, Failure> {
    let page = records::page(client, None).await?;
    let stands = |view: &MerchantView| view.status == "authorized";
    let is_good = |app_id: &str| {
        let mut looks = apps.iter();
        looks.any(|look| look.app_id == app_id && look.verdict == GOOD)
    };
    let is_there = |view: &MerchantView| apps.iter().any(|look| look.app_id == view.app_id);
    let has_more = page.next.is_some();
    let standing = page.items.into_iter().filter(stands);
    let (asked, skipped): (Vec<_>, Vec<_>) = standing.partition(|view| is_good(&view.app_id));
    let mut verdicts = Vec::new();
    for view in asked.iter().take(MERCHANTS) {
        let path = format!("{}/verify?dry_run=true", records::path(view));
        verdicts.push(client.change(Method::POST, &path, Vec::new()).await?);
    }
    Ok(Merchants {
        verdicts,
        more: has_more || asked.len() > MERCHANTS,
        skipped: skipped.len(),
        without_app: skipped.iter().filter(|view| !is_there(view)).count(),
    })
}

impl Looks {
    /// What is wrong, one line each; what is wrong with several in the same words is told once.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Alike::default();
        for app in &self.apps {
            if app.verdict != GOOD {
                faults.add(APP, &app.app_id, said(&app.error, &app.detail));
            }
            if !matches!(app.v3.verdict.as_str(), GOOD | "") {
                faults.add(APP, &app.app_id, of_v3(&app.v3));
            }
        }
        for one in self.merchants.iter().filter(|one| one.verdict != "valid") {
            let (app_id, auth_app_id, verdict) = (&one.app_id, &one.auth_app_id, &one.verdict);
            let why = one
                .error
                .as_deref()
                .unwrap_or("`merchant verify` tells more");
            let name = format!("{app_id}/{auth_app_id}");
            faults.add(MERCHANT, &name, format!("{verdict}: {why}"));
        }
        for view in &self.public_address {
            for fault in &view.faults {
                faults.add(ADDRESS, &view.url, fault.clone());
            }
        }
        let clock = self.clock().and_then(Result::err);
        faults.lines().chain(clock).collect()
    }

    /// The clock beside Alipay's, whose answers come within seconds; `None`: no answer told a time.
    fn clock(&self) -> Option<Result<String, String>> {
        let ahead = self.apps.iter().find_map(|app| app.clock_ahead_s)?;
        let side = if ahead < 0 { "behind" } else { "ahead of" };
        let seconds = ahead.abs();
        Some(match seconds > CLOCK {
            true => Err(format!(
                "this machine's clock is {seconds} s {side} Alipay's; Alipay refuses wrong timestamps"
            )),
            false => Ok(format!("clock: {seconds} s {side} Alipay's")),
        })
    }

    /// What couldn't be looked at, one line each.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let skipped = self
            .public_address_skipped
            .map(|why| format!("the public address wasn't looked at: {why}"));
        let without_app = self.merchants_without_app;
        let unanswered = self.merchants_skipped.saturating_sub(without_app);
        let merchants = [
            (unanswered, "Alipay doesn't answer their app"),
            (without_app, "their app is neither configured nor stored"),
        ];
        let merchants = merchants.into_iter().filter(|(count, _)| *count > 0);
        let merchants = merchants
            .map(|(count, why)| format!("{count} merchants weren't asked about, because {why}"));
        skipped.into_iter().chain(merchants).collect()
    }

    /// What was looked at and is good, one line each.
    pub(crate) fn good(&self) -> Vec<String> {
        let apps = self.apps.iter().filter(|app| app.verdict == GOOD);
        let apps = apps.map(|app| {
            let took = app.took_ms.unwrap_or_default();
            format!(
                "app {}: Alipay takes its key, and the reply verifies ({took} ms)",
                app.app_id
            )
        });
        let v3 = self.apps.iter().filter(|app| app.v3.verdict == GOOD);
        let v3 = v3.map(|app| {
            let took = app.v3.took_ms.unwrap_or_default();
            format!("app {}: v3 answers, too ({took} ms)", app.app_id)
        });
        let valid = self.merchants.iter().filter(|one| one.verdict == "valid");
        let valid = match valid.count() {
            0 => None,
            1 => Some("merchants: the token of 1 holds".to_owned()),
            some => Some(format!("merchants: the tokens of {some} hold")),
        };
        let more = self.more_merchants.then(|| {
            format!("merchants: only the first {MERCHANTS} were asked about; `merchant verify --all` asks about all")
        });
        let unchanged = self
            .public_address
            .iter()
            .filter(|view| view.verdict == "unchanged");
        let unchanged = unchanged.map(|view| format!("{}: comes in unchanged", view.url));
        let clock = self.clock().and_then(Result::ok);
        let reached = self.reached().into_iter().chain(clock);
        reached
            .chain(apps)
            .chain(v3)
            .chain(valid)
            .chain(more)
            .chain(unchanged)
            .collect()
    }

    /// Each place that answered, and what that proves of the way there.
    fn reached(&self) -> Vec<String> {
        let answered = |took: Option<u64>, url: &str| took.and_then(|_| origin(url));
        let both = |app: &AppLook| {
            let v2 = answered(app.took_ms, &app.gateway);
            [v2, answered(app.v3.took_ms, &app.v3.origin)]
        };
        let origins: BTreeSet<_> = self.apps.iter().flat_map(both).flatten().collect();
        let told = |origin: String| match (&self.proxy, origin.starts_with("https:")) {
            (Some(proxy), true) => {
                format!("{origin}: reached through {proxy}, and its TLS certificate holds")
            }
            (Some(proxy), false) => format!("{origin}: reached through {proxy}, without TLS"),
            (None, true) => format!("{origin}: its name resolves, and its TLS certificate holds"),
            (None, false) => format!("{origin}: reached, without TLS"),
        };
        origins.into_iter().map(told).collect()
    }
}

/// Whom something is said of: the word for one, and for several.
type Whom = [&'static str; 2];

const ADDRESS: Whom = ["", ""];
const APP: Whom = ["app ", "apps "];
const MERCHANT: Whom = ["merchant ", "merchants "];

/// Texts, each with whom it is said of.
#[derive(Default)]
struct Alike(Vec<Saying>);

struct Saying {
    whom: Whom,
    names: Vec<String>,
    text: String,
}

impl Alike {
    fn add(&mut self, whom: Whom, name: &str, text: String) {
        let mut known = self.0.iter_mut();
        let same = known.find(|saying| saying.whom == whom && saying.text == text);
        match same {
            None => self.0.push(Saying {
                whom,
                names: vec![name.to_owned()],
                text,
            }),
            Some(saying) if saying.names.iter().any(|known| known == name) => {}
            Some(saying) => saying.names.push(name.to_owned()),
        }
    }

    fn lines(self) -> impl Iterator<Item = String> {
        self.0.into_iter().map(|saying| {
            let [one, several] = saying.whom;
            let whom = if saying.names.len() > 1 { several } else { one };
            format!("{whom}{}: {}", saying.names.join(", "), saying.text)
        })
    }
}

fn said(error: &Option<String>, detail: &Option<String>) -> String {
    let error = error.as_deref().unwrap_or_default();
    format!("{error}: {}", detail.as_deref().unwrap_or_default())
}

/// That nobody could be reached is said in the words of v2, so that it is told once where both have
/// one host.
fn of_v3(look: &V3Look) -> String {
    let said = said(&look.error, &look.detail);
    match look.error.as_deref() {
        Some("upstream-unreachable" | "upstream-timeout") => said,
        _ => format!("v3 ({}): {said}", look.origin),
    }
}

/// The scheme, host and port of a URL.
fn origin(url: &str) -> Option<String> {
    let url: Uri = url.parse().ok()?;
    Some(format!("{}://{}", url.scheme_str()?, url.authority()?))
}

/// How an answer is called that is as it should be.
const GOOD: &str = "good";

const NOT_RUNNING: &str = "no sidecar is running behind it; start it, and check again";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_are_told_once_with_all_whom_they_are_said_of() {
        let mut faults = Alike::default();
        for (whom, name, text) in [
            (APP, "1", "no way"),
            (MERCHANT, "1/2", "no way"),
            (APP, "3", "no way"),
            (APP, "3", "no way"),
            (APP, "3", "no key"),
            (ADDRESS, "http://a/b", "refused"),
            (ADDRESS, "http://a/c", "refused"),
        ] {
            faults.add(whom, name, text.to_owned());
        }
        let lines: Vec<_> = faults.lines().collect();
        let expected = [
            "apps 1, 3: no way",
            "merchant 1/2: no way",
            "app 3: no key",
            "http://a/b, http://a/c: refused",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (url, expected) in [
            ("https://a.example/gateway.do", Some("https://a.example")),
            ("http://127.0.0.1:9", Some("http://127.0.0.1:9")),
            ("", None),
        ] {
            assert_eq!(origin(url).as_deref(), expected, "{url}");
        }
    }
}
