use futures_util::FutureExt;

use super::*;
use crate::protocol::secret::Secret;

fn token(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

#[tokio::test]
async fn one_token_is_used_by_one_at_a_time_and_forgotten_afterwards() {
    let turns = Turns::default();
    let first = turns.take(&token("a")).await;
    let _other = turns.take(&token("b")).await;
    assert!(turns.take(&token("a")).now_or_never().is_none());
    drop(first);
    let again = turns.take(&token("a")).now_or_never().expect("free");
    assert_eq!(turns.count(), 2);
    drop(again);
    assert_eq!(turns.count(), 1);
}
