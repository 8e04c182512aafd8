//! `check --online`: what only shows by asking Alipay, and by going to the public address.

use http::Method;
use serde::Serialize;

use crate::admin::apps::AppView;
use crate::admin::authorizations::VerdictView;
use crate::admin::look::AppLook;
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
    public_address: Vec<OwnAddressView>,
    /// Why the public address wasn't looked at.
    public_address_skipped: Option<&'static str>,
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
    let apps: Page<AppView> = client.get("/api/apps").await?;
    let mut looks = Vec::new();
    for app in &apps.items {
        let path = format!("/api/apps/{}/check", encoded(&app.app_id));
        looks.push(client.change(Method::POST, &path, Vec::new()).await?);
    }
    let (merchants, more_merchants) = merchants(client).await?;
    let (public_address, public_address_skipped) = if config.webhook.public_url.is_none() {
        (Vec::new(), Some("webhook.public_url isn't set"))
    } else if is_running {
        let path = "/api/webhook/check";
        let page: Page<OwnAddressView> = client.change(Method::POST, path, Vec::new()).await?;
        (page.items, None)
    } else {
        (Vec::new(), Some("no sidecar is running behind it"))
    };
    Ok(Looks {
        apps: looks,
        merchants,
        more_merchants,
        public_address,
        public_address_skipped,
    })
}

/// The verdicts on the first merchants whose authorisation stands, and whether there are more.
async fn merchants(client: &AdminClient) -> Result<(Vec<VerdictView>, bool), Failure> {
    let page = records::page(client, None).await?;
    let stands = |view: &MerchantView| view.status == "authorized";
    let more = page.next.is_some();
    let standing: Vec<_> = page.items.into_iter().filter(stands).collect();
    let mut verdicts = Vec::new();
    for view in standing.iter().take(MERCHANTS) {
        let path = format!("{}/verify?dry_run=true", records::path(view));
        verdicts.push(client.change(Method::POST, &path, Vec::new()).await?);
    }
    Ok((verdicts, more || standing.len() > MERCHANTS))
}

impl Looks {
    /// What is wrong, one line each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let apps = self.apps.iter().filter(|app| app.verdict != "good");
        let apps = apps.map(|app| {
            let error = app.error.as_deref().unwrap_or_default();
            let detail = app.detail.as_deref().unwrap_or_default();
            format!("app {}: {error}: {detail}", app.app_id)
        });
        let merchants = self.merchants.iter().filter(|one| one.verdict != "valid");
        let merchants = merchants.map(|one| {
            let (app_id, auth_app_id, verdict) = (&one.app_id, &one.auth_app_id, &one.verdict);
            let why = one
                .error
                .as_deref()
                .unwrap_or("`merchant verify` tells more");
            format!("merchant {app_id}/{auth_app_id}: {verdict}: {why}")
        });
        let address = self.public_address.iter().flat_map(|view| {
            let faults = view.faults.iter();
            faults.map(move |fault| format!("{}: {fault}", view.url))
        });
        apps.chain(self.clock())
            .chain(merchants)
            .chain(address)
            .collect()
    }

    /// The clock, where it is far off; Alipay's answers come within seconds.
    fn clock(&self) -> Option<String> {
        let ahead = self.apps.iter().find_map(|app| app.clock_ahead_s)?;
        let side = if ahead < 0 { "behind" } else { "ahead of" };
        (ahead.abs() > CLOCK).then(|| {
            let seconds = ahead.abs();
            format!("this machine's clock is {seconds} s {side} Alipay's; Alipay refuses wrong timestamps")
        })
    }

    /// What was looked at and is good, one line each.
    pub(crate) fn good(&self) -> Vec<String> {
        let apps = self.apps.iter().filter(|app| app.verdict == "good");
        let apps = apps.map(|app| {
            let took = app.took_ms.unwrap_or_default();
            format!(
                "app {}: Alipay takes its key, and the reply verifies ({took} ms)",
                app.app_id
            )
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
        let skipped = self.public_address_skipped;
        let skipped = skipped.map(|why| format!("the public address wasn't looked at: {why}"));
        apps.chain(valid)
            .chain(more)
            .chain(unchanged)
            .chain(skipped)
            .collect()
    }
}
