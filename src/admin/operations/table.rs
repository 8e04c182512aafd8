//! The table. A new operation is a row here, a word in [`Does`], and an arm in `routes`.

use http::Method;

use super::{Answer, Content, Does, Operation, Parameter, ParameterForm, RequestBody};
use crate::admin::apps::{self, AppView};
use crate::admin::authorizations::{
    self, DescriptionView, LinkView, SubscriptionView, VerdictView,
};
use crate::admin::configuration::{ConfigView, Reloaded};
use crate::admin::drain::Progress;
use crate::admin::export::{self, SealedPage};
use crate::admin::health::Readiness;
use crate::admin::import::ImportReport;
use crate::admin::inbox::{self, EntryView, ItemView, ReverifyReport};
use crate::admin::look::AppLook;
use crate::admin::merchant_form;
use crate::admin::merchants::MerchantView;
use crate::admin::page::Page;
use crate::admin::prune::{self, PruneReport};
use crate::admin::replay::{self, Replayed};
use crate::admin::routes::AuditView;
use crate::store::care::{Inspection, Stats};
use crate::webhook::own_address::OwnAddressView;

/// Every operation; those of one path follow each other.
pub(in crate::admin) static OPERATIONS: [Operation; 36] = [
    get("/livez", Does::Live, "Says that the process lives")
        .answers(Content::Text, "It does: `ok`"),
    get(
        "/readyz",
        Does::Ready,
        "Says whether calls should be sent here",
    )
    .answers(Content::json::<Readiness>(), "They should")
    .or_else(503, Content::json::<Readiness>(), "They shouldn't, and why"),
    get(
        "/metrics",
        Does::Metrics,
        "Gives the metrics, for Prometheus",
    )
    .answers(Content::Text, "The text format 0.0.4")
    .refuses(&[500]),
    get("/api/openapi.json", Does::Document, "Gives this document")
        .answers(Content::json::<Document>(), "It"),
    get(
        "/api/apps",
        Does::ListApps,
        "Lists every app, those of the configuration first",
    )
    .answers(Content::json::<Page<AppView>>(), "All of them, on one page"),
    get("/api/apps/{app_id}", Does::ShowApp, "Shows an app")
        .answers(Content::json::<AppView>(), "It, without a secret")
        .refuses(&[404]),
    put(
        "/api/apps/{app_id}",
        Does::PutApp,
        "Keeps an app, sealed, in the store, in place of the one of its id",
    )
    .takes(RequestBody::Object(&apps::BODY))
    .answers(Content::json::<AppView>(), "As it is kept")
    .refuses(&[500]),
    delete(
        "/api/apps/{app_id}",
        Does::RemoveApp,
        "Forgets an app of the store",
    )
    .done()
    .refuses(&[404, 500]),
    post(
        "/api/apps/{app_id}/check",
        Does::CheckApp,
        "Asks Alipay whether it knows the app and takes its key; changes nothing",
    )
    .answers(
        Content::json::<AppLook>(),
        "What it says; also where it couldn't be asked",
    ),
    post(
        "/api/apps/{app_id}/exchange",
        Does::Exchange,
        "Exchanges an app_auth_code by hand, and stores what it gives",
    )
    .takes(RequestBody::Object(&authorizations::EXCHANGE))
    .answers(
        Content::json::<Page<MerchantView>>(),
        "The merchants that authorised",
    )
    .refuses(ASKS_ALIPAY),
    post(
        "/api/apps/{app_id}/links",
        Does::Link,
        "Makes a link with which one merchant authorises the app",
    )
    .takes(RequestBody::Object(&authorizations::LINK))
    .answers(Content::json::<LinkView>(), "The link, good once")
    .refuses(ASKS_ALIPAY),
    post(
        "/api/apps/{app_id}/subscriptions",
        Does::Subscribe,
        "Subscribes to messages of Alipay's, for the app or for a merchant",
    )
    .takes(RequestBody::Object(&authorizations::SUBSCRIBE))
    .answers(
        Content::json::<Page<SubscriptionView>>(),
        "What became of each topic",
    )
    .refuses(ASKS_ALIPAY),
    get(
        "/api/audit",
        Does::AuditHead,
        "Says how far the store knows the audit log",
    )
    .answers(Content::json::<AuditView>(), "The head of its chain"),
    get(
        "/api/config",
        Does::ShowConfig,
        "Shows the configuration in force, secrets as references",
    )
    .answers(
        Content::json::<ConfigView>(),
        "It, and where each value was set",
    ),
    post(
        "/api/drain",
        Does::Drain,
        "Takes the sidecar out of service: new work is refused for good, what is under way ends",
    )
    .asks(&[WAIT])
    .answers(Content::json::<Progress>(), "Nothing is under way any more")
    .or_else(202, Content::json::<Progress>(), "Something still is"),
    get(
        "/api/merchants",
        Does::ListMerchants,
        "Lists merchants: all, or those of one name",
    )
    .asks(&[AFTER_MERCHANT, LIMIT, SELECTOR, APP_ID])
    .answers(
        Content::json::<Page<MerchantView>>(),
        "A page of them, without a token",
    ),
    post(
        "/api/merchants/export",
        Does::Export,
        "Gives a page of merchants with their tokens, sealed to a key",
    )
    .asks(&[AFTER_MERCHANT, LIMIT])
    .takes(RequestBody::Object(&export::BODY))
    .answers(Content::json::<SealedPage>(), "One line of an export"),
    post(
        "/api/merchants/import",
        Does::Import,
        "Imports merchants: all, or none of them",
    )
    .asks(&[DRY_RUN])
    .takes(RequestBody::Lines(&merchant_form::LINE))
    .answers(Content::json::<ImportReport>(), "How many were stored")
    .refuses(&[409]),
    get(
        "/api/merchants/{app_id}/{auth_app_id}",
        Does::ShowMerchant,
        "Shows a merchant",
    )
    .answers(Content::json::<MerchantView>(), "It, without a token")
    .refuses(&[404]),
    put(
        "/api/merchants/{app_id}/{auth_app_id}",
        Does::PutMerchant,
        "Stores a merchant and its token; without one, gives a known merchant its alias",
    )
    .takes(RequestBody::Object(&merchant_form::BODY))
    .answers(Content::json::<MerchantView>(), "As it is now")
    .refuses(&[404, 409]),
    delete(
        "/api/merchants/{app_id}/{auth_app_id}",
        Does::RemoveMerchant,
        "Forgets a merchant and every token of it",
    )
    .done()
    .refuses(&[404]),
    post(
        "/api/merchants/{app_id}/{auth_app_id}/refresh",
        Does::Refresh,
        "Buys a new pair of tokens for a merchant",
    )
    .answers(Content::json::<MerchantView>(), "As it is now")
    .refuses(ASKS_ALIPAY),
    get(
        "/api/merchants/{app_id}/{auth_app_id}/token",
        Does::DescribeToken,
        "Asks Alipay about a merchant's token",
    )
    .answers(Content::json::<DescriptionView>(), "What Alipay says of it")
    .refuses(ASKS_ALIPAY),
    post(
        "/api/merchants/{app_id}/{auth_app_id}/verify",
        Does::Verify,
        "Proves a merchant's record at Alipay",
    )
    .asks(&[DRY_RUN])
    .answers(
        Content::json::<VerdictView>(),
        "The verdict; also where Alipay couldn't be asked",
    )
    .refuses(&[404]),
    get(
        "/api/inbox",
        Does::ListInbox,
        "Lists notifications and their deliveries",
    )
    .asks(&[STATE, ORDER, AFTER_ENTRY, LIMIT])
    .answers(Content::json::<Page<ItemView>>(), "A page of them")
    .refuses(&[404]),
    post("/api/inbox/prune", Does::Prune, "Removes what is old")
        .takes(RequestBody::Optional(&prune::BODY))
        .answers(Content::json::<PruneReport>(), "How much was removed"),
    post(
        "/api/inbox/replay",
        Does::ReplayMany,
        "Makes every delivery that a filter fits owed again",
    )
    .takes(RequestBody::Object(&replay::BODY))
    .answers(Content::json::<Replayed>(), "How many, and where to go on")
    .refuses(&[404]),
    post(
        "/api/inbox/reverify",
        Does::ReverifyMany,
        "Verifies refused notifications again: one, or all",
    )
    .takes(RequestBody::Optional(&inbox::REVERIFY))
    .answers(Content::json::<ReverifyReport>(), "What became of each")
    .refuses(&[404]),
    get(
        "/api/inbox/{id}",
        Does::ShowEntry,
        "Shows a notification and its deliveries",
    )
    .asks(&[EXPLAIN])
    .answers(Content::json::<EntryView>(), "It, every secret masked")
    .refuses(&[404]),
    post(
        "/api/inbox/{id}/replay",
        Does::Replay,
        "Makes a delivery owed again",
    )
    .done()
    .refuses(&[404]),
    post(
        "/api/inbox/{id}/reverify",
        Does::Reverify,
        "Verifies a refused notification again",
    )
    .answers(Content::json::<ReverifyReport>(), "What became of it")
    .refuses(&[404]),
    get(
        "/api/store",
        Does::StoreStats,
        "Says how large the store is, and what is in it",
    )
    .answers(Content::json::<Stats>(), "Its numbers"),
    get(
        "/api/store/backup",
        Does::Backup,
        "Gives a copy of the store, sealed as it is",
    )
    .answers(Content::Binary, "The copy, as `store restore` takes it"),
    post(
        "/api/store/check",
        Does::CheckStore,
        "Reads every record of the store",
    )
    .answers(Content::json::<Inspection>(), "What was found"),
    post(
        "/api/reload",
        Does::Reload,
        "Reads the configuration again, and puts it in force as a whole or not at all",
    )
    .answers(Content::json::<Reloaded>(), "What is in force now")
    .refuses(&[409, 422, 500]),
    post(
        "/api/webhook/check",
        Does::CheckWebhook,
        "Sends messages to the public address, and compares them with what comes in",
    )
    .answers(
        Content::json::<Page<OwnAddressView>>(),
        "What became of each; none where there is no public address",
    ),
];

/// An OpenAPI document.
#[derive(schemars::JsonSchema)]
#[expect(dead_code, reason = "it is only described")]
struct Document {
    /// The version of OpenAPI it is written in.
    openapi: String,
    /// What it is about.
    info: serde_json::Map<String, serde_json::Value>,
    /// Every path.
    paths: serde_json::Map<String, serde_json::Value>,
    /// What several of them share.
    components: serde_json::Map<String, serde_json::Value>,
}

/// What may become of a question to Alipay: refused by it, not reached, no answer in time, no place
/// for it.
const ASKS_ALIPAY: &[u16] = &[404, 409, 422, 500, 502, 504];

const AFTER_ENTRY: Parameter = parameter(
    "after",
    ParameterForm::Position,
    "The id behind which the page begins: `next` of the page before",
);
const AFTER_MERCHANT: Parameter = parameter(
    "after",
    ParameterForm::Position,
    "`app_id/auth_app_id` behind which the page begins: `next` of the page before",
);
const APP_ID: Parameter = parameter(
    "app_id",
    ParameterForm::AppId,
    "Only merchants of this app; beside `selector`",
);
const DRY_RUN: Parameter = parameter(
    "dry_run",
    ParameterForm::Flag,
    "`true`: everything is done but storing it",
);
const EXPLAIN: Parameter = parameter(
    "explain",
    ParameterForm::Flag,
    "`true`: say why its signature holds or doesn't",
);
const LIMIT: Parameter = parameter("limit", ParameterForm::Limit, "The most items on the page");
const ORDER: Parameter = parameter("order", ParameterForm::Order, "`desc`: the newest first");
const SELECTOR: Parameter = parameter(
    "selector",
    ParameterForm::Text,
    "Only merchants of this PID, auth_app_id or alias; `pid:`, `app:`, `alias:` make it exact",
);
const STATE: Parameter = parameter(
    "state",
    ParameterForm::State,
    "Only those in this state; refused ones are listed only where they are asked for",
);
const WAIT: Parameter = parameter(
    "wait",
    ParameterForm::Duration,
    "How long the answer may be waited for, such as `10s`",
);

const fn parameter(name: &'static str, form: ParameterForm, about: &'static str) -> Parameter {
    Parameter { name, about, form }
}

const fn get(path: &'static str, does: Does, about: &'static str) -> Operation {
    operation(&Method::GET, path, does, about)
}

const fn put(path: &'static str, does: Does, about: &'static str) -> Operation {
    operation(&Method::PUT, path, does, about)
}

const fn post(path: &'static str, does: Does, about: &'static str) -> Operation {
    operation(&Method::POST, path, does, about)
}

const fn delete(path: &'static str, does: Does, about: &'static str) -> Operation {
    operation(&Method::DELETE, path, does, about)
}

const fn operation(
    method: &'static Method,
    path: &'static str,
    does: Does,
    about: &'static str,
) -> Operation {
    Operation {
        does,
        method,
        path,
        about,
        query: &[],
        body: None,
        answer: Answer {
            status: 204,
            about: "Done",
            content: Content::Nothing,
        },
        otherwise: None,
        refusals: &[],
    }
}

impl Operation {
    const fn asks(self, query: &'static [Parameter]) -> Self {
        Self { query, ..self }
    }

    const fn takes(self, body: RequestBody) -> Self {
        Self {
            body: Some(body),
            ..self
        }
    }

    const fn answers(self, content: Content, about: &'static str) -> Self {
        let answer = Answer {
            status: 200,
            about,
            content,
        };
        Self { answer, ..self }
    }

    /// 204, as it stands already.
    const fn done(self) -> Self {
        self
    }

    const fn or_else(self, status: u16, content: Content, about: &'static str) -> Self {
        let otherwise = Some(Answer {
            status,
            about,
            content,
        });
        Self { otherwise, ..self }
    }

    const fn refuses(self, refusals: &'static [u16]) -> Self {
        Self { refusals, ..self }
    }
}
