//! Asking Alipay about many merchants: so many at once and so many a second, no more.

use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};

use crate::admin::merchants::MerchantView;
use crate::cli::admin_client::AdminClient;
use crate::cli::failure::Failure;
use crate::cli::{output, records};
use crate::model::id::AppId;

/// How many are asked about at once: Alipay answers within a second as a rule.
const AT_ONCE: usize = 8;
/// How often it is told how far it is.
const TOLD_EVERY: u64 = 500;

/// Asks about each merchant whose authorisation stands (of `app_id`, or of all apps), `rate` a
/// second at most, and hands each answer to `take`. Gives how many there were.
pub(crate) async fn each<T>(
    client: &AdminClient,
    (app_id, rate): (Option<&AppId>, u32),
    ask: impl AsyncFn(MerchantView) -> Result<T, Failure>,
    mut take: impl FnMut(T) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    let (mut after, mut asked) = (None, 0);
    loop {
        let page = records::page(client, after.as_deref()).await?;
        let meant = page.items.into_iter().filter(|view| {
            view.status != REVOKED && app_id.is_none_or(|id| id.as_str() == view.app_id)
        });
        let views: Vec<MerchantView> = meant.collect();
        let (ticks, ask) = (tokio::sync::Mutex::new(&mut ticks), &ask);
        let answers = stream::iter(views).map(|view| async {
            ticks.lock().await.tick().await;
            ask(view).await
        });
        let mut answers = std::pin::pin!(answers.buffered(AT_ONCE));
        while let Some(answer) = answers.next().await {
            take(answer?)?;
            asked += 1;
            if asked % TOLD_EVERY == 0 {
                output::complain(format!("{asked} asked about"));
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(asked),
        }
    }
}

/// What nobody needs to ask about: it has ended already.
const REVOKED: &str = "revoked";
/// How many a second, where nobody says: far below what Alipay allows an app.
pub(crate) const RATE: u32 = 5;
/// The most a second that may be asked for.
pub(crate) const MOST: i64 = 50;
