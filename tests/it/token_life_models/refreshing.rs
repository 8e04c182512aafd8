//! The refresh: answers lost before and after Alipay acted, callers at once, restarts between.

use std::sync::Arc;
use std::time::Duration;

use alipay_sidecar::gateway::Gateway;
use alipay_sidecar::gateway::metrics::CallMetrics;
use alipay_sidecar::model::merchant::{Merchant, MerchantStatus};
use alipay_sidecar::net::client::{Client, ClientOptions};
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{FIRST_AUTH_APP_ID, Fault, FaultKind};
use alipay_sidecar::token::metrics::TokenMetrics;
use alipay_sidecar::token::{ExchangeContext, TOKEN_METHOD, TokenParts, TokenStatus, Tokens};
use prometheus::Registry;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::sequences;
use crate::parts::{Parts, Setting};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The merchant authorises anew.
    Authorize,
    /// So many callers ask for a refresh at once.
    Refresh(u8, Answer),
    /// What was in memory is gone.
    Restart,
    /// A call works.
    Work,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Arrives,
    LostAfter,
    LostBefore,
}

fn step() -> impl Strategy<Value = Step> {
    let answer = prop_oneof![
        3 => Just(Answer::Arrives),
        2 => Just(Answer::LostAfter),
        2 => Just(Answer::LostBefore),
    ];
    prop_oneof![
        1 => Just(Step::Authorize),
        5 => (1..4_u8, answer).prop_map(|(callers, answer)| Step::Refresh(callers, answer)),
        2 => Just(Step::Restart),
        2 => Just(Step::Work),
    ]
}

/// What must be so.
#[derive(Debug, Default, PartialEq, Eq)]
struct Model {
    /// Alipay has spent the refresh token in our hands.
    is_spent: bool,
    /// And has told us.
    is_refused: bool,
    is_suspect: bool,
    /// A pair before the one in force is kept.
    has_previous: bool,
}

impl Model {
    /// How often Alipay is asked, and whether a new pair comes of it.
    fn refresh(&mut self, answer: Answer) -> (usize, bool) {
        if self.is_refused {
            return (0, false);
        }
        match answer {
            Answer::LostBefore => (1, false),
            // A refusal that is lost tells nothing.
            Answer::LostAfter => {
                self.is_spent = true;
                (1, false)
            }
            Answer::Arrives if self.is_spent => {
                self.is_refused = true;
                self.is_suspect = true;
                (1, false)
            }
            Answer::Arrives => {
                *self = Self {
                    has_previous: true,
                    ..Self::default()
                };
                (1, true)
            }
        }
    }
}

fn restarted(parts: &Parts) -> Tokens {
    let client = Client::new(&ClientOptions {
        connect_timeout: Duration::from_secs(5),
        max_reply: 1 << 20,
        ca_file: None,
    });
    let (clock, registry) = (Arc::new(parts.clock.clone()), Registry::new());
    let calls = CallMetrics::register(&registry).expect("new");
    Tokens::new(TokenParts {
        store: parts.store.clone(),
        gateway: Gateway::new(client.expect("a client"), clock.clone(), calls),
        apps: parts.apps.clone(),
        clock,
        timeout: Duration::from_secs(5),
        metrics: TokenMetrics::register(&registry).expect("new"),
        remember_users: true,
        wake: parts.dispatcher.waker(),
    })
}

async fn authorize(parts: &Parts, tokens: &Tokens) -> Merchant {
    let code = parts.simulator.app_auth_code(None, &[FIRST_AUTH_APP_ID]);
    let code = Secret::new(code.expect("a known merchant"));
    let context = ExchangeContext::default();
    let exchanged = tokens.exchange(&parts.app(), &code, context).await;
    exchanged.expect("a good code").remove(0)
}

fn fault(parts: &Parts, answer: Answer) {
    parts.simulator.clear_faults();
    let kind = match answer {
        Answer::Arrives => return,
        Answer::LostAfter => FaultKind::Reset,
        Answer::LostBefore => FaultKind::Html,
    };
    parts.simulator.fault(Fault::once(kind).on(TOKEN_METHOD));
}

async fn play(parts: &Parts, steps: &[Step]) {
    let mut tokens = restarted(parts);
    let mut merchant = authorize(parts, &tokens).await;
    tokens.worked(&merchant);
    tokens.idle().await;
    let mut model = Model::default();
    for step in steps {
        let before = parts.merchant(FIRST_AUTH_APP_ID).await.expect("stored");
        // The simulator remembers no more than 1000 requests, so their ids tell them apart.
        let known = last_request(parts);
        let expected = match step {
            Step::Authorize => {
                authorize(parts, &tokens).await;
                model = Model {
                    has_previous: true,
                    ..Model::default()
                };
                (1, true)
            }
            Step::Refresh(callers, answer) => {
                fault(parts, *answer);
                let asked = (0..*callers).map(|_| tokens.refresh(&before));
                let answers = futures_util::future::join_all(asked).await;
                let expected = model.refresh(*answer);
                assert!(answers.iter().all(|a| a.is_ok() == expected.1), "{step:?}");
                parts.simulator.clear_faults();
                expected
            }
            Step::Restart => {
                tokens = restarted(parts);
                (0, false)
            }
            Step::Work => {
                tokens.worked(&before);
                tokens.idle().await;
                model.has_previous = false;
                model.is_suspect = false;
                (0, false)
            }
        };
        merchant = parts.merchant(FIRST_AUTH_APP_ID).await.expect("stored");
        let is_new = merchant.token.app_auth_token != before.token.app_auth_token;
        assert_eq!((asked_since(parts, &known), is_new), expected, "{step:?}");
        let found = Model {
            is_spent: model.is_spent,
            is_refused: merchant.refresh_refused,
            is_suspect: matches!(merchant.status, MerchantStatus::Suspect { .. }),
            has_previous: merchant.previous_token.is_some(),
        };
        assert_eq!(found, model, "{step:?}");
        parts.clock.advance_ms(1);
    }
    // Whatever was lost: what is in force holds, so the merchant's calls go through.
    let status = tokens.query(&merchant).await.expect("answered");
    assert_eq!(status, TokenStatus::Valid);
}

fn last_request(parts: &Parts) -> String {
    let requests = parts.simulator.requests();
    requests
        .last()
        .map_or_else(String::new, |r| r.trace_id.clone())
}

fn asked_since(parts: &Parts, known: &str) -> usize {
    let requests = parts.simulator.requests().into_iter().rev();
    requests
        .take_while(|request| request.trace_id != known)
        .filter(|request| request.method == TOKEN_METHOD)
        .count()
}

#[test]
fn a_refresh_does_what_its_model_does() {
    // One thread: so that those who ask at once have all asked before the first is answered.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let parts = runtime.block_on(Parts::new(Setting::default()));
    let config = Config {
        cases: sequences(60),
        failure_persistence: None,
        ..Config::default()
    };
    let steps = prop::collection::vec(step(), 1..10);
    let result = TestRunner::new(config).run(&steps, |steps| {
        runtime.block_on(play(&parts, &steps));
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}
