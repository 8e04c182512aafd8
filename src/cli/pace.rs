//! Asking Alipay about many merchants: so many at once and so many a second, no more.

use std::time::Duration;

use anyhow::anyhow;
use futures_util::stream::{self, StreamExt as _};
use tokio::time::MissedTickBehavior;

use crate::admin::merchants::MerchantView;
use crate::cli::admin_client::AdminClient;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::{output, problem, records};
use crate::model::id::AppId;

/// How many are asked about at once: Alipay answers within a second as a rule.
const AT_ONCE: usize = 8;
/// How often it is told how far it is.
const TOLD_EVERY: u64 = 500;

/// Asks about each merchant whose authorisation stands (of `app_id`, or of all apps), `rate` a
/// second at most, and hands each answer to `take`. What can't be asked about is told and counted,
/// and the others are asked about all the same.
pub(crate) async fn each<T>(
    client: &AdminClient,
    (app_id, rate): (Option<&AppId>, u32),
    ask: impl AsyncFn(MerchantView) -> Result<T, Failure>,
    mut take: impl FnMut(T) -> Result<(), Failure>,
) -> Result<Tally, Failure> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    // After a stall, no burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut after, mut tally) = (None, Tally::default());
    loop {
        let page = records::page(client, after.as_deref()).await?;
        let meant = page.items.into_iter().filter(|view| {
            view.status != REVOKED && app_id.is_none_or(|id| id.as_str() == view.app_id)
        });
        let views: Vec<MerchantView> = meant.collect();
        let (ticks, ask) = (tokio::sync::Mutex::new(&mut ticks), &ask);
        let answers = stream::iter(views).map(|view| async {
            let whose = format!("{}/{}", view.app_id, view.auth_app_id);
            ticks.lock().await.tick().await;
            (whose, ask(view).await)
        });
        let mut answers = std::pin::pin!(answers.buffered(AT_ONCE));
        while let Some((whose, answer)) = answers.next().await {
            if let Some(answer) = tally.count(&whose, answer) {
                take(answer)?;
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(tally),
        }
    }
}

/// How it went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// How many there were.
    pub(crate) merchants: u64,
    /// How many of them couldn't be asked about.
    pub(crate) unasked: u64,
}

impl Tally {
    /// Counts one, and gives the answer; where there is none, it is told why.
    fn count<T>(&mut self, whose: &str, answer: Result<T, Failure>) -> Option<T> {
        self.merchants += 1;
        if self.merchants.is_multiple_of(TOLD_EVERY) {
            output::complain(format!("{} asked about", self.merchants));
        }
        match answer {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.unasked += 1;
                output::complain(format!("{whose} was not asked about: {error}"));
                None
            }
        }
    }
}

/// Why the verb failed. With `--json` each answer had a line, and who couldn't be asked about none:
/// for those there is one more.
pub(crate) fn failed(text: String, unasked: u64, form: &Form) -> Failure {
    if form.json && unasked > 0 {
        // Texts, numbers and flags always serialise.
        let _ = output::say_json_line(&problem::of(&anyhow!(text.clone()).into()));
    }
    Failure::told(text)
}

/// What nobody needs to ask about: it has ended already.
const REVOKED: &str = "revoked";
/// How many a second, where nobody says: far below what Alipay allows an app.
pub(crate) const RATE: u32 = 5;
/// The most a second that may be asked for.
pub(crate) const MOST: i64 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_cannot_be_asked_about_ends_nothing() {
        let mut tally = Tally::default();
        assert_eq!(tally.count("a", Ok(1)), Some(1));
        let failed = Failure::from(anyhow!("the connection broke"));
        assert_eq!(tally.count::<u8>("b", Err(failed)), None);
        assert_eq!(tally.count("c", Ok(2)), Some(2));
        assert_eq!((tally.merchants, tally.unasked), (3, 1));
    }
}
