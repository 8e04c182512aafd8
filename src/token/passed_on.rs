//! What backends' own calls that buy tokens have in common with ours: the turn of the refresh token that
//! one spends, its reply for whoever sends the same one again, and the tokens that it brings.

use std::sync::Arc;

use crate::gateway::app::SigningApp;
use crate::model::authorization::Source;
use crate::model::merchant::Merchant;
use crate::protocol::secret::Secret;
use crate::protocol::token_reply;
use crate::store::MemoKey;
use crate::token::error::TokenError;
use crate::token::spent::{SpentForm, SpentReply};
use crate::token::storing::{self, STORING};
use crate::token::turn::{Turn, Turns};
use crate::token::{ExchangeContext, Exchanged, Tokens};

impl Tokens {
    /// Waits for the right to send `refresh_token` to Alipay. Who passes on somebody else's call of
    /// [`TOKEN_METHOD`](crate::token::TOKEN_METHOD) holds it until the reply is absorbed: then a
    /// refresh of the sidecar's own finds the new pair instead of using the old one twice.
    ///
    /// # Cancel safety
    /// Safe: who leaves gives up the place in the queue.
    pub async fn turn(&self, refresh_token: &Secret<String>) -> Turn {
        self.turns.take(refresh_token).await
    }

    /// What Alipay answered a moment ago when the refresh token of `turn` was sent in the same
    /// form: the answer for whoever waited for this turn.
    #[must_use]
    pub fn spent_reply(&self, turn: &Turn, form: &SpentForm) -> Option<SpentReply> {
        let now = self.parts.clock.now_ms();
        self.spent.get(turn.key(), form, now)
    }

    /// The same for who needn't wait for the turn: it may take as long as the store takes what was
    /// bought.
    #[must_use]
    pub fn spent_reply_to(
        &self,
        refresh_token: &Secret<String>,
        form: &SpentForm,
    ) -> Option<SpentReply> {
        let now = self.parts.clock.now_ms();
        self.spent.get(Turns::key_of(refresh_token), form, now)
    }

    /// Keeps what Alipay answered to the refresh token of `turn`, for those who wait for theirs.
    pub fn keep_spent(&self, turn: &Turn, form: SpentForm, reply: SpentReply) {
        let now = self.parts.clock.now_ms();
        self.spent.keep(turn.key(), form, reply, now);
    }

    /// Stores the tokens in `node`, a verified reply to a call of
    /// [`TOKEN_METHOD`](crate::token::TOKEN_METHOD) that somebody else made.
    ///
    /// # Errors
    /// [`TokenError::Reply`] when the node holds no token, [`TokenError::Store`];
    /// [`TokenError::Unstored`] where the store doesn't take them yet.
    ///
    /// # Cancel safety
    /// Safe: the tokens are stored in a task of its own, for as long as the process lives.
    pub async fn absorb(
        &self,
        app: &SigningApp,
        node: &[u8],
        source: Source,
    ) -> Result<Vec<Merchant>, TokenError> {
        self.absorb_in(None, (app, source), node).await
    }

    /// The same in the turn of the refresh token that was spent, which ends with it.
    ///
    /// # Errors
    /// As [`Tokens::absorb`].
    ///
    /// # Cancel safety
    /// As there.
    pub async fn absorb_in(
        &self,
        turn: Option<Turn>,
        (app, source): (&SigningApp, Source),
        node: &[u8],
    ) -> Result<Vec<Merchant>, TokenError> {
        let granted = token_reply::parse(node).map_err(TokenError::Reply)?;
        // Of a kind of its own: no callback's exchange joins this.
        let key = MemoKey::new("absorb", &[&String::from_utf8_lossy(node)]);
        let (parts, app_id) = (Arc::clone(&self.parts), app.app_id.clone());
        let work = async move {
            // A refresh goes on with what was authorised before; an exchange had no `state` of ours.
            let context = ExchangeContext {
                reference: None,
                bound: source == Source::Refresh,
            };
            let found = storing::Found {
                app_id: &app_id,
                source,
                renewal: None,
                context: &context,
            };
            let stored = storing::store(&parts, &found, granted, None).await;
            drop(turn);
            stored.map(|stored| Exchanged::by_somebody(stored.merchants))
        };
        let landed = self.exchanges.run(key, work);
        let stored = storing::until_stored(STORING, landed).await;
        stored.map(|exchanged| exchanged.merchants)
    }
}
