//! What one configuration makes of the parts: built as a whole, put in force as a whole.
//!
//! A request takes the generation of the moment it begins and keeps it to its end, so it never sees
//! the callers of one configuration and the apps of another. What has to outlive a generation (who
//! is under way, what is counted or remembered) is handed on from one to the next, or is
//! [`Lasting`].

use std::sync::Arc;

use crate::admin::drain::Work;
use crate::admin::health::Health;
use crate::admin::token::TokenInForce;
use crate::admin::{Admin, AdminParts};
use crate::certificates::{CertificateParts, Certificates};
use crate::config::Config;
use crate::config::token::UnknownToken;
use crate::gateway::Gateway;
use crate::gateway::app::Apps;
use crate::gateway::platform::CertificateSource;
use crate::proxy::caller::Callers;
use crate::proxy::notify_url::NotifyUrlRule;
use crate::proxy::reply_signature::ReplySigner;
use crate::proxy::resolve::Resolver;
use crate::proxy::{Limits, Proxy, ProxyParts};
use crate::sidecar::lasting::Lasting;
use crate::sidecar::means::Means;
use crate::sidecar::promotions::KeptPromotions;
use crate::token::{TokenParts, Tokens};
use crate::webhook::{Webhook, WebhookParts};

/// A configuration, and the services that work by it.
pub(super) struct Generation {
    /// Counted from 1.
    pub(super) number: u64,
    /// Unix milliseconds.
    pub(super) loaded_at: i64,
    pub(super) fingerprint: String,
    pub(super) config: Config,
    pub(super) means: Means,
    pub(super) apps: Apps,
    pub(super) certificates: Certificates,
    pub(super) tokens: Tokens,
    pub(super) proxy: Proxy,
    pub(super) webhook: Webhook,
    pub(super) admin: Admin,
    pub(super) admin_token: TokenInForce,
}

/// What a generation is made of, all of it checked.
pub(super) struct Making {
    pub(super) config: Config,
    pub(super) means: Means,
    pub(super) apps: Apps,
    pub(super) admin_token: TokenInForce,
}

impl Generation {
    /// Wires `making`. It starts nothing, and changes nothing of what is in force.
    pub(super) fn new(making: Making, lasting: &Lasting, former: Option<&Self>) -> Self {
        let wiring = Wiring {
            making: &making,
            lasting,
            former,
        };
        let (certificates, gateway) = wiring.gateway();
        let tokens = wiring.tokens(gateway.clone());
        let proxy = wiring.proxy(gateway, &tokens);
        let webhook = wiring.webhook(&certificates, &tokens);
        let admin = wiring.admin(&tokens, &webhook);
        Self {
            number: former.map_or(1, |former| former.number + 1),
            loaded_at: lasting.clock.now_ms(),
            fingerprint: making.config.fingerprint(),
            config: making.config,
            means: making.means,
            apps: making.apps,
            certificates,
            tokens,
            proxy,
            webhook,
            admin,
            admin_token: making.admin_token,
        }
    }

    /// Who works now.
    pub(super) fn work(&self) -> Work {
        Work {
            proxy: self.proxy.clone(),
            tokens: self.tokens.clone(),
            webhook: self.webhook.clone(),
        }
    }
}

struct Wiring<'a> {
    making: &'a Making,
    lasting: &'a Lasting,
    former: Option<&'a Generation>,
}

impl Wiring<'_> {
    fn gateway(&self) -> (Certificates, Gateway) {
        let (lasting, client) = (self.lasting, self.making.means.upstream.clone());
        let gateway = Gateway::new(
            client,
            Arc::clone(&lasting.clock),
            lasting.metrics.calls.clone(),
        );
        let promotions =
            KeptPromotions::new(Arc::clone(&lasting.store), Arc::clone(&lasting.clock));
        let gateway = gateway
            .with_diagnostics(lasting.diagnostics.clone())
            .with_promotions(Arc::new(promotions));
        let parts = CertificateParts {
            gateway: gateway.clone(),
            store: Arc::clone(&lasting.store),
            clock: Arc::clone(&lasting.clock),
            timeout: self.making.config.upstream.timeout,
            metrics: lasting.metrics.certificates.clone(),
        };
        let certificates = match self.former {
            Some(former) => former.certificates.reconfigured(parts),
            None => Certificates::new(parts),
        };
        let source: Arc<dyn CertificateSource> = Arc::new(certificates.clone());
        (certificates, gateway.with_certificates(source))
    }

    fn tokens(&self, gateway: Gateway) -> Tokens {
        let (config, lasting) = (&self.making.config, self.lasting);
        let parts = TokenParts {
            store: Arc::clone(&lasting.store),
            gateway,
            apps: self.making.apps.clone(),
            clock: Arc::clone(&lasting.clock),
            timeout: config.upstream.timeout,
            metrics: lasting.metrics.tokens.clone(),
            remember_users: config.tokens.remember_users,
            wake: lasting.dispatcher.waker(),
        };
        match self.former {
            Some(former) => former.tokens.reconfigured(parts),
            None => Tokens::new(parts),
        }
    }

    fn proxy(&self, gateway: Gateway, tokens: &Tokens) -> Proxy {
        let (config, lasting) = (&self.making.config, self.lasting);
        let metrics = &lasting.metrics.proxy;
        let former = self.former.map(|former| former.proxy.parts());
        Proxy::new(ProxyParts {
            callers: match former {
                Some(former) => former.callers.reconfigured(&config.callers, metrics),
                None => Callers::new(&config.callers, metrics),
            },
            audit: lasting.audit.clone(),
            resolver: self.resolver(tokens),
            gateway,
            tokens: tokens.clone(),
            notify_urls: notify_url_rule(config),
            reply_signer: self.reply_signer(),
            calls: lasting.calls.clone(),
            logins: lasting.logins.clone(),
            events: Arc::clone(&lasting.events),
            limits: match former {
                Some(former) => former.limits.reconfigured(config),
                None => Limits::new(config, lasting.ending.clone()),
            },
            metrics: metrics.clone(),
            call_metrics: lasting.metrics.calls.clone(),
            tracer: lasting.traces.tracer.clone(),
        })
    }

    fn resolver(&self, tokens: &Tokens) -> Resolver {
        let config = &self.making.config;
        let default = config.proxy.default_merchant.clone();
        let directory = Arc::clone(&self.lasting.store) as _;
        let resolver = Resolver::new(self.making.apps.clone(), directory, default);
        match config.tokens.unknown {
            UnknownToken::Learn => resolver.with_learner(tokens.clone()),
            UnknownToken::Refuse => resolver,
        }
    }

    fn reply_signer(&self) -> Option<ReplySigner> {
        let means = &self.making.means;
        let key = means.install_key.clone()?;
        // Its allowance for refusals goes with the places of the key's queue.
        let former = self.former.filter(|former| former.means.has_key_of(means));
        if let Some(former) = former {
            return former.proxy.parts().reply_signer.clone();
        }
        Some(ReplySigner::new(key, Arc::clone(&self.lasting.clock)))
    }

    fn webhook(&self, certificates: &Certificates, tokens: &Tokens) -> Webhook {
        let (config, lasting) = (&self.making.config, self.lasting);
        let parts = WebhookParts {
            audit: lasting.audit.clone(),
            apps: self.making.apps.clone(),
            certificates: Arc::new(certificates.clone()),
            diagnostics: lasting.diagnostics.clone(),
            store: Arc::clone(&lasting.store),
            tokens: tokens.clone(),
            clock: Arc::clone(&lasting.clock),
            metrics: lasting.metrics.webhook.clone(),
            state_key: lasting.state_key.clone(),
            asker: lasting.dispatcher.asker(),
            wake: lasting.dispatcher.waker(),
            ending: lasting.ending.clone(),
            tracer: lasting.traces.tracer.clone(),
        };
        let (webhook, delivery) = (&config.webhook, &config.delivery);
        match self.former {
            Some(former) => former.webhook.reconfigured(parts, webhook, delivery),
            None => Webhook::new(parts, webhook, delivery),
        }
    }

    fn admin(&self, tokens: &Tokens, webhook: &Webhook) -> Admin {
        let (config, lasting) = (&self.making.config, self.lasting);
        let apps = &self.making.apps;
        let store = &lasting.store;
        Admin::new(AdminParts {
            audit: lasting.audit.clone(),
            drain: lasting.drain.clone(),
            health: Health::new(apps.clone(), Arc::clone(store), lasting.ending.clone()),
            metrics: lasting.metrics.admin.clone(),
            token: self.making.admin_token.clone(),
            allowed_hosts: config.proxy.allowed_hosts.clone(),
            is_local: config.admin.listen.is_local(),
            store: Arc::clone(store),
            clock: Arc::clone(&lasting.clock),
            configured: config.apps.clone(),
            upstream: config.upstream.clone(),
            configuration: Arc::clone(&lasting.hook) as _,
            apps: apps.clone(),
            tokens: tokens.clone(),
            webhook: webhook.clone(),
            retain_delivered: config.delivery.retain_delivered,
            wake: lasting.dispatcher.waker(),
            client: self.making.means.backend.clone(),
        })
    }
}

fn notify_url_rule(config: &Config) -> NotifyUrlRule {
    NotifyUrlRule::new(
        config.webhook.public_url.as_deref(),
        &config.webhook.base_path,
        &config.proxy.notify_url_allow,
        config.proxy.notify_url_mode,
    )
}
