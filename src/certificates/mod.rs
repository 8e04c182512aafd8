//! Platform certificates (支付宝公钥证书) that aren't known yet: asked for once, believed by their
//! chain, kept.
//!
//! Alipay renews the certificate that it signs with whenever it likes, at night, too; the first
//! reply under the new one names a serial number that nobody here knows. Invariants: nothing is
//! believed that doesn't lead up to a configured root; one serial number is asked for at most once
//! at a time, and after a failure not again for a minute; strangers, who can name whatever they
//! like in a notification, have an allowance of their own.
//!
//! Protocol: 公钥证书方式, `alipay.open.app.alipaycert.download`. Its reply carries no signature that
//! could be verified: the chain proves the content.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;

use crate::clock::Clock;
use crate::flight::Flights;
use crate::gateway::Gateway;
use crate::gateway::app::SigningApp;
use crate::gateway::error::GatewayError;
use crate::gateway::metrics::Api;
use crate::gateway::platform::{
    Asker, CertificateRefusal, CertificateSource, Choice, DOWNLOAD_METHOD,
};
use crate::gateway::v2::{Encryption, V2Call};
use crate::model::certificate::KeptCertificate;
use crate::model::id::AppId;
use crate::protocol::cert::{self, Bundle};
use crate::protocol::charset::CharsetLabel;
use crate::protocol::error::EnvelopeError;
use crate::protocol::params::{Params, name};
use crate::store::{Change, Store};
use crate::telemetry::span::Span;

mod allowance;
pub mod metrics;

use allowance::Allowances;
use metrics::CertificateMetrics;

/// What [`Certificates`] works with.
pub struct CertificateParts {
    /// Calls Alipay.
    pub gateway: Gateway,
    /// Where certificates are kept.
    pub store: Arc<dyn Store>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Deadline of one download.
    pub timeout: Duration,
    /// Counts downloads.
    pub metrics: CertificateMetrics,
}

/// Makes unknown platform certificates known. Clones share what is under way.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    parts: CertificateParts,
    flights: Flights<(AppId, String, Asker), Result<(), CertificateRefusal>>,
    allowances: Arc<Allowances>,
}

impl Certificates {
    /// A source that works with `parts`.
    #[must_use]
    pub fn new(parts: CertificateParts) -> Self {
        Self(Arc::new(Inner {
            parts,
            flights: Flights::new(),
            allowances: Arc::default(),
        }))
    }

    /// The same with other parts; what was asked for lately counts on. What is under way goes on
    /// for the sets of keys that it was begun for, and is nothing to those of now.
    #[must_use]
    pub fn reconfigured(&self, parts: CertificateParts) -> Self {
        Self(Arc::new(Inner {
            parts,
            flights: Flights::new(),
            allowances: Arc::clone(&self.0.allowances),
        }))
    }

    /// Makes known what was kept by an earlier run; what is no longer believed is passed over.
    ///
    /// # Errors
    /// The store's.
    pub async fn recall(
        &self,
        apps: &[Arc<SigningApp>],
    ) -> Result<(), crate::store::error::StoreError> {
        let parts = &self.0.parts;
        let now = parts.clock.now_ms();
        for kept in parts.store.certificates().await? {
            let Some(app) = apps.iter().find(|app| app.app_id == kept.app_id) else {
                continue;
            };
            if let Err(refusal) = believe(app, &kept.sn, &kept.pem, now) {
                tracing::info!(
                    app_id = %app.app_id, sn = kept.sn, %refusal,
                    "a platform certificate that was kept isn't used"
                );
            }
        }
        Ok(())
    }
}

impl CertificateSource for Certificates {
    fn learn<'a>(
        &'a self,
        app: &'a Arc<SigningApp>,
        sn: &'a str,
        asker: Asker,
    ) -> BoxFuture<'a, Result<(), CertificateRefusal>> {
        self.join(app, sn, asker).boxed()
    }
}

impl Certificates {
    async fn join(
        &self,
        app: &Arc<SigningApp>,
        sn: &str,
        asker: Asker,
    ) -> Result<(), CertificateRefusal> {
        // A reply never shares the fate of what a stranger caused.
        let key = (app.app_id.clone(), sn.to_owned(), asker);
        let fetched = || {
            let (inner, app, sn) = (Arc::clone(&self.0), Arc::clone(app), sn.to_owned());
            let work = async move { inner.fetch(&app, &sn, asker).await };
            self.0.flights.run(key.clone(), work)
        };
        let bug = || CertificateRefusal::Unavailable("a bug; see the log".to_owned());
        let joined = fetched().await.unwrap_or_else(|| Err(bug()));
        if joined.is_err() || !app.platform.may_learn(sn) {
            return joined;
        }
        // It was fetched for the app as it stood before a change of the apps.
        fetched().await.unwrap_or_else(|| Err(bug()))
    }
}

impl Inner {
    async fn fetch(
        &self,
        app: &Arc<SigningApp>,
        sn: &str,
        asker: Asker,
    ) -> Result<(), CertificateRefusal> {
        if !app.platform.may_learn(sn) {
            // Somebody else has made it known meanwhile, or it is no serial number.
            return match app.platform.choose(Some(sn)) {
                Choice::Keys(_) | Choice::Unnamed(_) => Ok(()),
                Choice::Unknown => Err(CertificateRefusal::Unavailable(
                    "it isn't named by a serial number".to_owned(),
                )),
            };
        }
        let now = self.parts.clock.now_ms();
        self.allowances.take(&app.app_id, sn, asker, now)?;
        let fetched = self.download(app, sn, asker).await;
        self.parts.metrics.fetched(&fetched);
        match &fetched {
            Ok(()) => {
                tracing::info!(app_id = %app.app_id, sn, "a new platform certificate is trusted");
            }
            Err(refusal) => {
                self.allowances
                    .failed(&app.app_id, (sn, refusal), asker, now);
                tracing::warn!(
                    app_id = %app.app_id, sn, %refusal,
                    "a platform certificate that Alipay named can't be trusted"
                );
            }
        }
        fetched
    }

    async fn download(
        &self,
        app: &Arc<SigningApp>,
        sn: &str,
        asker: Asker,
    ) -> Result<(), CertificateRefusal> {
        let call = download_call(app, sn, self.parts.timeout);
        let unavailable = |reason: String| CertificateRefusal::Unavailable(reason);
        let reply = match self.parts.gateway.call(&call).await {
            Err(GatewayError::ResponseSignature(EnvelopeError::Certificate(error))) => {
                return Err(error.into());
            }
            Err(GatewayError::Certificate(refusal)) => return Err(refusal),
            reply => reply.map_err(|error| unavailable(error.to_string()))?,
        };
        let pem = cert::downloaded(&reply.envelope.node()).map_err(|_| {
            let sub_code = reply.envelope.sub_code().unwrap_or_default();
            CertificateRefusal::Withheld(sub_code.to_owned())
        })?;
        let chain = Bundle::parse(&pem)?;
        if asker == Asker::Notification {
            app.platform.check_holder(&chain)?;
        }
        app.platform.learn(sn, &chain, self.parts.clock.now_ms())?;
        let kept = KeptCertificate {
            app_id: app.app_id.clone(),
            sn: sn.to_owned(),
            pem,
        };
        // It is trusted from now on; a store that can't keep it costs one more download.
        let change = Change::KeepCertificate(Box::new(kept));
        if let Err(error) = self.parts.store.commit(vec![change]).await {
            tracing::warn!(%error, sn, "a platform certificate could not be kept");
        }
        Ok(())
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

fn believe(app: &SigningApp, sn: &str, pem: &str, now: i64) -> Result<(), CertificateRefusal> {
    app.platform.learn(sn, &Bundle::parse(pem)?, now)
}

fn download_call(app: &Arc<SigningApp>, sn: &str, timeout: Duration) -> V2Call {
    #[derive(Serialize)]
    struct Asked<'a> {
        alipay_cert_sn: &'a str,
    }
    let asked = Asked { alipay_cert_sn: sn };
    let asked = serde_json::to_string(&asked).expect("a struct of texts serialises");
    let mut parameters = Params::new();
    parameters.set(name::BIZ_CONTENT, asked);
    V2Call {
        app: Arc::clone(app),
        app_auth_token: None,
        method: DOWNLOAD_METHOD.to_owned(),
        parameters,
        files: Vec::new(),
        charset: CharsetLabel::default(),
        encryption: Encryption::Callers,
        timeout,
        api: Api::Internal,
        span: Span::default(),
    }
}
