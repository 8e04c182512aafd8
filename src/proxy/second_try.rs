//! A call that Alipay refused because of a token, made once more with another.
//!
//! A signed refusal of a token says that nothing was executed, so a resend harms nobody. For the
//! merchant's token: with a refreshed one where it timed out; where it is invalid, with today's if
//! the one that was sent has been replaced meanwhile, or with the one before it if a refresh brought
//! it and it has never worked. For the user's: with the one that takes its place. Each happens once
//! at most, in either order and within the deadline of the call, and none with what is revoked.
//!
//! What spends a code that is good for one call, whether it succeeds or not, is never made again:
//! then what the reply says of the token is only noted, for the calls to come.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::gateway::VerifiedReply;
use crate::gateway::v3::VerifiedV3Reply;
use crate::model::merchant::Merchant;
use crate::model::user_token::UserToken;
use crate::protocol::envelope::{Verification, VerifiedEnvelope};
use crate::protocol::secret::Secret;
use crate::protocol::v3_response::{V3Verification, VerifiedV3Response};
use crate::proxy::ProxyParts;
use crate::proxy::error::ProxyError;
use crate::proxy::users;
use crate::token::{SecondChoice, TokenVerdict};

/// What a reply says of the merchant's token that its call was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing.
    Nothing,
    /// It doesn't serve; nothing was executed.
    Refused(TokenVerdict),
    /// It holds: the call succeeded.
    Worked,
}

/// A verified reply of either dialect.
pub(super) trait SaysOfTokens {
    /// What it says of the merchant's token.
    fn says_of_token(&self) -> Said;

    /// What it says against the user's token.
    fn refuses_user(&self) -> Option<users::Refusal>;
}

/// A call of either dialect.
pub(super) trait Resendable: Send + Sync {
    type Reply: SaysOfTokens + Send;

    /// Whether it may be sent once only, whatever comes of it.
    fn is_single(&self) -> bool;

    /// Makes it one with that token of the merchant's, which has `timeout` left.
    fn set_merchant_token(&mut self, token: Secret<String>, timeout: Duration);

    /// Puts `token` in the place of the user's token before, in a call that has `timeout` left.
    fn set_user_token(&mut self, token: &UserToken, timeout: Duration) -> Result<(), ProxyError>;

    fn send(
        &self,
        parts: &ProxyParts,
    ) -> impl Future<Output = Result<Box<Self::Reply>, ProxyError>> + Send;
}

impl Said {
    fn of_v2(envelope: &VerifiedEnvelope) -> Self {
        if envelope.verification() != Verification::Signed || envelope.is_ciphertext() {
            return Self::Nothing;
        }
        let refused = envelope.sub_code().and_then(TokenVerdict::of_sub_code);
        match (refused, envelope.code()) {
            (Some(verdict), _) => Self::Refused(verdict),
            // 10003: a payment waits for its customer. `alipay.system.oauth.token` has no code.
            (None, None | Some("10000" | "10003")) => Self::Worked,
            _ => Self::Nothing,
        }
    }

    fn of_v3(response: &VerifiedV3Response, code: Option<&str>) -> Self {
        if response.verification() != V3Verification::Signed {
            return Self::Nothing;
        }
        let refused = code.and_then(TokenVerdict::of_code);
        match refused {
            Some(verdict) => Self::Refused(verdict),
            None if response.is_error() => Self::Nothing,
            None => Self::Worked,
        }
    }
}

impl SaysOfTokens for VerifiedReply {
    fn says_of_token(&self) -> Said {
        Said::of_v2(&self.envelope)
    }

    fn refuses_user(&self) -> Option<users::Refusal> {
        users::Refusal::of(self)
    }
}

impl SaysOfTokens for VerifiedV3Reply {
    fn says_of_token(&self) -> Said {
        Said::of_v3(&self.response, self.code().as_deref())
    }

    fn refuses_user(&self) -> Option<users::Refusal> {
        users::Refusal::of_v3(self)
    }
}

/// Sends a call for `merchant` with the token of `user`; and once more for each of the two whose
/// token Alipay refuses and there is another of.
///
/// # Errors
/// Those of the first call, or of a resend.
pub(super) async fn send<C: Resendable>(
    parts: &ProxyParts,
    (call, until): (&mut C, Instant),
    (merchant, user): (Option<&Merchant>, Option<UserToken>),
) -> Result<Box<C::Reply>, ProxyError> {
    let mut trial = Trial {
        parts,
        merchant,
        until,
        choice: None,
    };
    let first = call.send(parts).await?;
    if call.is_single() {
        Box::pin(trial.learn(first.says_of_token())).await;
        return Ok(first);
    }
    let reply = trial.settle(call, first).await?;
    let Some((used, refusal)) = user.zip(reply.refuses_user()) else {
        return Ok(reply);
    };
    let in_use = trial.in_use();
    let refused = (&used, refusal);
    let replacement = Box::pin(users::replacement(parts, refused, in_use.as_ref(), until));
    let Some(token) = in_time(replacement.await, trial.remaining()) else {
        return Ok(reply);
    };
    call.set_user_token(&token, trial.remaining())?;
    let again = call.send(parts).await?;
    trial.settle(call, again).await
}

/// The merchant's token of one call.
struct Trial<'a> {
    parts: &'a ProxyParts,
    merchant: Option<&'a Merchant>,
    until: Instant,
    /// What the one resend for its sake was made with.
    choice: Option<SecondChoice>,
}

impl Trial<'_> {
    fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// The merchant with the token that the last call was made with.
    fn in_use(&self) -> Option<Merchant> {
        let choice = self.choice.as_ref().map(SecondChoice::as_sent);
        choice.or_else(|| self.merchant.cloned())
    }

    /// Draws what `reply` says of the token: gives it, or that of the one resend it calls for.
    async fn settle<C: Resendable>(
        &mut self,
        call: &mut C,
        reply: Box<C::Reply>,
    ) -> Result<Box<C::Reply>, ProxyError> {
        let Some(merchant) = self.merchant else {
            return Ok(reply);
        };
        let said = reply.says_of_token();
        if let Some(choice) = &self.choice {
            self.note(choice, said);
            return Ok(reply);
        }
        let choice = match said {
            Said::Nothing => None,
            Said::Worked => {
                self.parts.tokens.worked(merchant);
                None
            }
            Said::Refused(verdict) => {
                Box::pin(other_token(self.parts, merchant, verdict, self.until)).await
            }
        };
        match in_time(choice, self.remaining()) {
            Some(choice) => Box::pin(self.resend(call, choice, reply)).await,
            None => Ok(reply),
        }
    }

    /// Draws what a reply to a call that isn't made again says of the token: the next call finds it
    /// renewed.
    async fn learn(&self, said: Said) {
        let Some(merchant) = self.merchant else {
            return;
        };
        match said {
            Said::Nothing => {}
            Said::Worked => self.parts.tokens.worked(merchant),
            Said::Refused(verdict) => {
                other_token(self.parts, merchant, verdict, self.until).await;
            }
        }
    }

    /// Makes the call with the other token. Its reply goes to the caller, unless that token was
    /// refused, too.
    async fn resend<C: Resendable>(
        &mut self,
        call: &mut C,
        choice: SecondChoice,
        first: Box<C::Reply>,
    ) -> Result<Box<C::Reply>, ProxyError> {
        call.set_merchant_token(choice.app_auth_token.clone(), self.remaining());
        let choice = self.choice.insert(choice).clone();
        let again = call.send(self.parts).await?;
        let said = again.says_of_token();
        self.note(&choice, said);
        match said {
            Said::Refused(_) => Ok(first),
            Said::Nothing | Said::Worked => Ok(again),
        }
    }

    /// Takes note of what a reply to a call with the other token says of it.
    fn note(&self, choice: &SecondChoice, said: Said) {
        let (tokens, merchant) = (&self.parts.tokens, &choice.merchant);
        match Note::of(choice.is_previous, said) {
            Note::Nothing => {}
            Note::Refused => tokens.refused(merchant),
            Note::FellBack => tokens.fell_back(merchant),
            Note::Worked => tokens.worked(merchant),
        }
    }
}

/// Nothing, once no time remains for it.
fn in_time<T>(choice: Option<T>, remaining: Duration) -> Option<T> {
    choice.filter(|_| !remaining.is_zero())
}

/// What is kept of a reply to a call with the other token.
#[derive(Debug, PartialEq, Eq)]
enum Note {
    Nothing,
    Refused,
    /// The token before the one in force works.
    FellBack,
    Worked,
}

impl Note {
    fn of(is_previous: bool, said: Said) -> Self {
        match said {
            Said::Nothing => Self::Nothing,
            // A new one that has timed out is renewed once more, some time.
            Said::Refused(TokenVerdict::TimedOut) if !is_previous => Self::Nothing,
            Said::Refused(_) => Self::Refused,
            Said::Worked if is_previous => Self::FellBack,
            Said::Worked => Self::Worked,
        }
    }
}

/// Another token than `merchant`'s, which Alipay refused, if that is had by `until`.
pub(super) async fn other_token(
    parts: &ProxyParts,
    merchant: &Merchant,
    verdict: TokenVerdict,
    until: Instant,
) -> Option<SecondChoice> {
    match verdict {
        TokenVerdict::Invalid => another(parts, merchant, until).await,
        TokenVerdict::TimedOut => renewed(parts, merchant, until).await,
    }
}

/// A refreshed token. A refresh that takes longer goes on by itself.
async fn renewed(parts: &ProxyParts, merchant: &Merchant, until: Instant) -> Option<SecondChoice> {
    let auth_app_id = &merchant.auth_app_id;
    let renewing = parts.tokens.renew(merchant);
    match tokio::time::timeout_at(until.into(), renewing).await {
        Ok(Ok(merchant)) => Some(SecondChoice {
            app_auth_token: merchant.token.app_auth_token.clone(),
            merchant,
            is_previous: false,
        }),
        Ok(Err(error)) => {
            tracing::warn!(%error, %auth_app_id, "a timed-out token could not be refreshed");
            None
        }
        Err(_) => {
            tracing::warn!(%auth_app_id, "a timed-out token was not refreshed within the deadline");
            None
        }
    }
}

/// Today's token, or the one before it; where there is none, the merchant is doubtful.
async fn another(parts: &ProxyParts, merchant: &Merchant, until: Instant) -> Option<SecondChoice> {
    let looking = parts.tokens.second_choice(merchant);
    let choice = match tokio::time::timeout_at(until.into(), looking).await {
        Ok(Ok(choice)) => choice,
        Ok(Err(error)) => {
            tracing::warn!(%error, "no other token could be looked for");
            None
        }
        Err(_) => {
            tracing::warn!("no other token was found within the deadline");
            None
        }
    };
    if choice.is_none() {
        parts.tokens.refused(merchant);
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::Envelope;
    use crate::protocol::key::AppPrivateKey;
    use crate::protocol::signature::SignType;
    use crate::protocol::v3_response::V3Response;

    const INVALID: Said = Said::Refused(TokenVerdict::Invalid);

    fn sign(content: &str) -> String {
        let alipay = AppPrivateKey::of_vectors("alipay1024");
        let sign = alipay.sign(SignType::Rsa2, content.as_bytes());
        sign.expect("signed")
    }

    fn v2(body: &str) -> Said {
        let keys = [AppPrivateKey::of_vectors("alipay1024").public_key().clone()];
        let reply = Envelope::parse(body.to_owned().into(), "alipay.trade.pay").expect("a reply");
        Said::of_v2(&reply.verify(&keys, SignType::Rsa2).expect("Alipay's"))
    }

    fn v3(status: u16, body: &str, is_signed: bool) -> Said {
        let keys = [AppPrivateKey::of_vectors("alipay1024").public_key().clone()];
        let sign = sign(&format!("1\nn\n{body}\n"));
        let headers = [
            ("alipay-timestamp", "1"),
            ("alipay-nonce", "n"),
            ("alipay-signature", &sign),
        ];
        let headers = headers.iter().take(if is_signed { 3 } else { 0 });
        let headers = headers.map(|(name, value)| (*name, value.as_bytes()));
        let response = V3Response::new(status, headers, body.to_owned().into());
        let verified = response.expect("a response").verify(&keys);
        let verified = verified.expect("Alipay's");
        Said::of_v3(&verified, verified.code().as_deref())
    }

    #[test]
    fn only_a_signed_success_says_that_a_token_works() {
        for (node, expected) in [
            (r#"{"code":"10000"}"#, Said::Worked),
            (r#"{"code":"10003"}"#, Said::Worked),
            (r#"{"access_token":"x"}"#, Said::Worked),
            (r#"{"code":"40004","sub_code":"ACQ.X"}"#, Said::Nothing),
            (
                r#"{"code":"20001","sub_code":"aop.invalid-app-auth-token"}"#,
                INVALID,
            ),
            (r#""YWJj""#, Said::Nothing),
        ] {
            let body = format!(
                r#"{{"alipay_trade_pay_response":{node},"sign":"{}"}}"#,
                sign(node)
            );
            assert_eq!(v2(&body), expected, "{node}");
        }
        let unsigned =
            r#"{"error_response":{"code":"20001","sub_code":"aop.invalid-app-auth-token"}}"#;
        assert_eq!(v2(unsigned), Said::Nothing);
    }

    #[test]
    fn the_same_on_v3_where_the_status_tells_an_error() {
        let invalid = r#"{"code":"app-auth-token-invalid"}"#;
        for (status, body, is_signed, expected) in [
            (200, r#"{"trade_no":"1"}"#, true, Said::Worked),
            (400, r#"{"code":"ACQ.X"}"#, true, Said::Nothing),
            (401, invalid, true, INVALID),
            (401, invalid, false, Said::Nothing),
        ] {
            assert_eq!(v3(status, body, is_signed), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_token_before_is_given_up_for_any_refusal_and_a_new_one_for_its_invalidity() {
        const TIMED_OUT: Said = Said::Refused(TokenVerdict::TimedOut);
        for (said, of_new, of_previous) in [
            (Said::Nothing, Note::Nothing, Note::Nothing),
            (INVALID, Note::Refused, Note::Refused),
            (TIMED_OUT, Note::Nothing, Note::Refused),
            (Said::Worked, Note::Worked, Note::FellBack),
        ] {
            assert_eq!(Note::of(false, said), of_new, "{said:?}");
            assert_eq!(Note::of(true, said), of_previous, "{said:?}");
        }
    }

    #[test]
    fn nothing_is_made_again_without_time() {
        assert_eq!(in_time(Some(1), Duration::from_millis(1)), Some(1));
        assert_eq!(in_time(Some(1), Duration::ZERO), None);
        assert_eq!(in_time(None::<i32>, Duration::from_secs(1)), None);
    }
}
