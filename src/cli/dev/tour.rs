//! The tour: every part of the sidecar once, each step verified.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::LOCATION;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;

use crate::cli::dev::world::World;
use crate::cli::output::say;
use crate::model::event::MERCHANT_AUTHORIZED;
use crate::model::id::AuthAppId;
use crate::model::merchant::Merchant;
use crate::net::client::{Client, ClientOptions, Reply};
use crate::simulator::{
    Event, FIRST_AUTH_APP_ID, NotificationRecord, NotificationState, SECOND_AUTH_APP_ID,
    TriggerOptions,
};
use crate::store::MerchantKey;

/// How long one request of the tour may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The ISV's own id of the tenant who begins the authorisation by link.
const TENANT: &str = "tenant-42";
const TOKEN_METHOD: &str = "alipay.open.auth.token.app";

/// Walks through the world and says what it sees.
pub(crate) struct Tour<'a> {
    world: &'a World,
    client: Client,
    steps: usize,
}

impl<'a> Tour<'a> {
    pub(crate) fn new(world: &'a World) -> Result<Self> {
        let client = Client::new(&ClientOptions {
            connect_timeout: PATIENCE,
            max_reply: 1 << 20,
            ca_file: None,
        })?;
        Ok(Self {
            world,
            client,
            steps: 0,
        })
    }

    /// Takes every step; the first that isn't verified ends the tour.
    pub(crate) async fn walk(&mut self) -> Result<()> {
        self.plugin_order().await.context("the plugin order")?;
        self.authorisation_by_link()
            .await
            .context("the authorisation by link")?;
        self.call().await.context("the call for the merchant")?;
        self.user_login().await.context("the user's login")?;
        self.payment().await.context("the payment")?;
        say("\nEvery step was verified.");
        Ok(())
    }

    async fn plugin_order(&mut self) -> Result<()> {
        self.step("A merchant orders the plugin");
        let order = self
            .trigger(Event::OrderMessage, TriggerOptions::default())
            .await?;
        self.seen("servicemarket_order_notify", &order)?;
        let delivered = self.world.backend.next().await?;
        ensure!(
            delivered.text() == order.body,
            "the backend got other bytes than Alipay sent"
        );
        check("delivered to the backend byte for byte as Alipay sent it");

        let options = TriggerOptions {
            auth_app_id: Some(FIRST_AUTH_APP_ID.to_owned()),
            ..TriggerOptions::default()
        };
        let push = self.trigger(Event::PluginOrder, options).await?;
        self.seen("open_app_auth_notify", &push)?;
        let merchant = self.merchant(FIRST_AUTH_APP_ID).await?;
        let pid = merchant.pid.as_ref().map_or("unknown", |pid| pid.as_str());
        check(&format!(
            "triple stored: PID {pid}, auth_app_id {FIRST_AUTH_APP_ID}, its token"
        ));
        self.authorized_event(&merchant, "push").await
    }

    async fn authorisation_by_link(&mut self) -> Result<()> {
        self.step("Another merchant authorises by link, in a browser");
        let start = format!(
            "{}/alipay/auth/start?page=batch&ref={TENANT}",
            self.world.webhook
        );
        let page = self.redirect(&start).await.context("/alipay/auth/start")?;
        ensure!(page.contains("state="), "the link has no state");
        check("link made, with a one-time state");
        let chosen = format!("{page}&simulator_auth_app_id={SECOND_AUTH_APP_ID}");
        let callback = self.redirect(&chosen).await.context("Alipay's page")?;
        for _ in 0..2 {
            let answer = self.get(&callback).await?;
            ensure!(
                answer.status == StatusCode::OK,
                "the callback was answered {}",
                answer.status
            );
        }
        let exchanges = self.world.simulator.requests();
        let exchanges = exchanges.iter().filter(|r| r.method == TOKEN_METHOD);
        ensure!(
            exchanges.count() == 1,
            "the code wasn't exchanged exactly once"
        );
        check("state checked, app_auth_code exchanged once, though the browser reloaded");
        let merchant = self.merchant(SECOND_AUTH_APP_ID).await?;
        ensure!(
            merchant.reference.as_deref() == Some(TENANT),
            "the link's ref was lost"
        );
        check(&format!(
            "triple stored: auth_app_id {SECOND_AUTH_APP_ID}, ref {TENANT}"
        ));
        self.authorized_event(&merchant, "callback").await
    }

    async fn call(&mut self) -> Result<()> {
        self.step("The backend calls Alipay for the merchant: no key, no token, no signature");
        let body = r#"{"out_trade_no":"tour-1","total_amount":"88.88","subject":"茶"}"#;
        let node = self.alipay("alipay.trade.create", body).await?;
        check(&format!(
            "alipay.trade.create: signed, sent, reply verified: {}",
            said(&node)
        ));
        let node = self
            .alipay("alipay.trade.query", r#"{"out_trade_no":"tour-1"}"#)
            .await?;
        let status = text(&node, "trade_status")?;
        check(&format!(
            "alipay.trade.query: reply verified: trade_status {status}"
        ));
        Ok(())
    }

    async fn user_login(&mut self) -> Result<()> {
        self.step("A user logs in to the plugin");
        let code = self
            .world
            .simulator
            .auth_code(Some(FIRST_AUTH_APP_ID), None)?;
        check("my.getAuthCode gave the front end an auth_code");
        let path = format!("alipay.system.oauth.token?grant_type=authorization_code&code={code}");
        let node = self.alipay(&path, "").await?;
        let access_token = text(&node, "access_token")?;
        check("alipay.system.oauth.token: reply verified: an access token");
        let path = format!("alipay.user.info.share?auth_token={access_token}");
        let node = self.alipay(&path, "").await?;
        let (user, name) = (text(&node, "user_id")?, text(&node, "nick_name")?);
        check(&format!(
            "alipay.user.info.share: reply verified: user {user}, {name}"
        ));
        Ok(())
    }

    async fn payment(&mut self) -> Result<()> {
        self.step("The user pays, and Alipay notifies");
        let body = r#"{"out_trade_no":"tour-2","total_amount":"8.80","subject":"tea"}"#;
        self.alipay("alipay.trade.create?notify_url=/orders/tour-2", body)
            .await?;
        check("alipay.trade.create with the relative notify_url /orders/tour-2");
        let options = TriggerOptions {
            out_trade_no: Some("tour-2".to_owned()),
            ..TriggerOptions::default()
        };
        let paid = self.trigger(Event::Payment, options).await?;
        self.seen("trade_status_sync", &paid)?;
        let delivered = self.world.backend.next().await?;
        ensure!(
            delivered.text() == paid.body,
            "the backend got other bytes than Alipay sent"
        );
        let path = delivered.header("alipay-notify-path");
        ensure!(
            path == "/orders/tour-2",
            "the backend was told the notify path {path:?}"
        );
        let id = delivered.header("alipay-event-id");
        check(&format!(
            "delivered to the backend as event {id}, path {path}"
        ));
        let node = self
            .alipay("alipay.trade.query", r#"{"out_trade_no":"tour-2"}"#)
            .await?;
        let status = text(&node, "trade_status")?;
        ensure!(status == "TRADE_SUCCESS", "Alipay says {status} when asked");
        check("alipay.trade.query agrees: TRADE_SUCCESS");
        Ok(())
    }

    /// A notification that was answered with `success` after it was verified and stored.
    fn seen(&mut self, what: &str, record: &NotificationRecord) -> Result<()> {
        let answer = record
            .attempts
            .last()
            .map_or("nothing", |attempt| attempt.answer.as_str());
        ensure!(
            record.state == NotificationState::Acked,
            "{what} was answered {answer:?} instead of \"success\""
        );
        check(&format!(
            "{what}: signature verified, stored, answered `success`"
        ));
        Ok(())
    }

    /// The backend hears of an authorisation, and of no token.
    async fn authorized_event(&mut self, merchant: &Merchant, source: &str) -> Result<()> {
        let delivered = self.world.backend.next().await?;
        let event: Value = serde_json::from_slice(&delivered.body).context("the event")?;
        ensure!(
            text(&event, "type")? == MERCHANT_AUTHORIZED,
            "another event was delivered"
        );
        ensure!(
            text(&event, "source")? == source,
            "the event names another source"
        );
        let token = merchant.token.app_auth_token.expose();
        ensure!(
            !delivered.text().contains(token),
            "the event holds the token"
        );
        check("the backend heard merchant.authorized, without the token");
        Ok(())
    }

    async fn merchant(&self, auth_app_id: &str) -> Result<Merchant> {
        let key = MerchantKey::AuthAppId(AuthAppId::new(auth_app_id)?);
        let found = self.world.sidecar.store().find(key).await?;
        found.into_iter().next().context("no triple was stored")
    }

    async fn trigger(&self, event: Event, options: TriggerOptions) -> Result<NotificationRecord> {
        let options = TriggerOptions {
            wait: true,
            ..options
        };
        Ok(self.world.simulator.trigger(event, &options).await?)
    }

    /// One call as a backend makes it, with the reply's own bytes.
    async fn alipay(&self, path: &str, body: &'static str) -> Result<Value> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/v2/{path}", self.world.proxy))
            .header("alipay-merchant", FIRST_AUTH_APP_ID)
            .body(Full::new(Bytes::from_static(body.as_bytes())))?;
        let reply = self.client.send(request, PATIENCE).await?;
        let header = |name: &str| reply.headers.get(name).and_then(|v| v.to_str().ok());
        let method = path.split('?').next().unwrap_or(path);
        if let Some(error) = header("alipay-sidecar-error") {
            anyhow::bail!(
                "{method} ended in {error}: {}",
                String::from_utf8_lossy(&reply.body)
            );
        }
        ensure!(
            header("alipay-sidecar-verified") == Some("true"),
            "{method}: not verified"
        );
        let node: Value = serde_json::from_slice(&reply.body)?;
        ensure!(
            header("alipay-code").is_none_or(|code| code == "10000"),
            "{method}: {}",
            said(&node)
        );
        Ok(node)
    }

    async fn get(&self, url: &str) -> Result<Reply> {
        let request = Request::builder().uri(url).body(Full::new(Bytes::new()))?;
        Ok(self.client.send(request, PATIENCE).await?)
    }

    async fn redirect(&self, url: &str) -> Result<String> {
        let reply = self.get(url).await?;
        let location = reply
            .headers
            .get(LOCATION)
            .and_then(|value| value.to_str().ok());
        let status = reply.status;
        location
            .map(ToOwned::to_owned)
            .with_context(|| format!("no redirect, but {status}"))
    }

    fn step(&mut self, title: &str) {
        self.steps += 1;
        say(format!("\n{}. {title}", self.steps));
    }
}

/// One thing that was verified.
fn check(what: &str) {
    say(format!("   ✓ {what}"));
}

fn text<'a>(node: &'a Value, member: &str) -> Result<&'a str> {
    node.get(member)
        .and_then(Value::as_str)
        .with_context(|| format!("`{member}` is missing"))
}

/// Alipay's verdict in a few words.
fn said(node: &Value) -> String {
    let member = |name: &str| {
        node.get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    [member("code"), member("msg"), member("sub_code")]
        .join(" ")
        .trim()
        .to_owned()
}
