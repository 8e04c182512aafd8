//! The keys that `sign` and `verify` work with: an app's, or those of references.

use anyhow::{Context as _, anyhow};

use crate::admin::error::AdminError;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::input;
use crate::model::app::{App, PrivateKey};
use crate::model::id::AppId;
use crate::protocol::diagnosis::{self, Cause, Keys};
use crate::protocol::key::AppPrivateKey;
use crate::protocol::secret::Secret;
use crate::protocol::signature::SignType;
use crate::store::embedded;

/// References to keys, as arguments give them.
pub(crate) struct KeyReferences<'a> {
    pub(crate) app: Option<&'a AppId>,
    pub(crate) alipay_public_key: &'a [String],
    pub(crate) app_public_key: &'a [String],
    pub(crate) private_key: Option<&'a str>,
    pub(crate) sign_type: Option<SignType>,
}

/// The key that signs, the app's algorithm, and what is odd about the key's text.
pub(crate) fn signing_key(
    context: &Context,
    (app, private_key): (Option<&AppId>, Option<&str>),
) -> Result<(AppPrivateKey, SignType, Option<String>), Failure> {
    let (text, sign_type) = match (app, private_key) {
        (Some(app), _) => {
            let app = app_of(context, app)?;
            (here(app.app_id, app.private_key)?, app.sign_type)
        }
        (None, reference) => {
            let reference = reference.unwrap_or_default();
            (private_text(reference)?, SignType::Rsa2)
        }
    };
    let key = diagnosis::private_key(text.expose())
        .map_err(|cause| Failure::Usage(format!("--private-key: {cause}")))?;
    let mix_up = diagnosis::label_mix_up(text.expose()).map(|cause| cause.to_string());
    Ok((key, sign_type, mix_up))
}

/// The keys that verify, and what is odd about their texts. `Err` in the inner result: what is wrong
/// with a key, which is an answer.
pub(crate) fn verifying_keys(
    context: &Context,
    references: &KeyReferences<'_>,
) -> Result<Result<(Keys, Vec<Cause>), Cause>, Failure> {
    let mut platform = Vec::new();
    let mut own = Vec::new();
    let mut private = Vec::new();
    let mut sign_type = SignType::Rsa2;
    if let Some(app) = references.app {
        let app = app_of(context, app)?;
        sign_type = app.sign_type;
        platform.extend(app.alipay_public_keys);
        platform.extend(app.certificates.into_iter().flat_map(|files| files.alipay));
        for key in std::iter::once(app.private_key).chain(app.private_key_next) {
            match key {
                PrivateKey::Elsewhere(public) => own.extend(public),
                PrivateKey::Text(text) => private.push(text),
            }
        }
    }
    let sign_type = references.sign_type.unwrap_or(sign_type);
    for reference in references.alipay_public_key {
        platform.push(any_text("--alipay-public-key", reference)?);
    }
    for reference in references.app_public_key {
        own.push(any_text("--app-public-key", reference)?);
    }
    if let Some(reference) = references.private_key {
        private.push(private_text(reference)?);
    }
    let gathered = || {
        let mut keys = Keys::new(&[], &[]).with_sign_type(sign_type);
        for text in &private {
            let key = diagnosis::private_key(text.expose())?;
            keys = keys.with_own_text(&key.public_key().to_bare_base64())?;
        }
        for text in &own {
            keys = keys.with_own_text(text)?;
        }
        platform
            .iter()
            .try_fold(keys, |keys, text| keys.with_alipay_text(text))
    };
    let texts = private.iter().map(|text| text.expose());
    let texts = texts.chain(&own).chain(&platform);
    let remarks = texts.filter_map(|text| diagnosis::label_mix_up(text));
    Ok(gathered().map(|keys| (keys, remarks.collect())))
}

/// The text of an app's key. One of a host's may be elsewhere, in a KMS that only the host can ask.
fn here(app_id: AppId, key: PrivateKey) -> Result<Secret<String>, Failure> {
    match key {
        PrivateKey::Elsewhere(_) => Err(Failure::Other(anyhow!(
            "the private key of app {app_id} is kept elsewhere, where the program that runs the sidecar \
             signs with it"
        ))),
        PrivateKey::Text(text) => Ok(text),
    }
}

/// The text of a reference to a private key. The key itself is refused, and not repeated: whoever
/// may list processes sees it.
fn private_text(reference: &str) -> Result<Secret<String>, Failure> {
    let is_inline = reference.contains("-----BEGIN") || reference.starts_with("MII");
    if is_inline {
        let text = "--private-key: found the key itself (not shown), where every user of this \
                    machine sees it in the list of processes; expected a reference such as \
                    `file:app_private.pem`, or `-` for standard input. Treat this key as \
                    disclosed if others use the machine";
        return Err(Failure::Usage(text.to_owned()));
    }
    input::secret_text("--private-key", reference).map_err(unreadable)
}

/// The text of a reference to a public key. A private key by mistake is read, too: that is what
/// is to be explained.
fn any_text(argument: &str, reference: &str) -> Result<String, Failure> {
    let text = input::references().public(reference);
    text.map_err(|mismatch| Failure::Usage(format!("{argument}: {mismatch}")))
}

/// The app of that id: configured, or else one that lives in the store, where nobody has it open.
fn app_of(context: &Context, app_id: &AppId) -> Result<App, Failure> {
    let find = |apps: Vec<App>| apps.into_iter().find(|app| app.app_id == *app_id);
    let (mut config, unread) = context.load_what_is_readable()?;
    // Its own secrets are all that is needed, but each of them: the one that is missing may be what
    // was signed with.
    if let Some(place) = context.place_of_app(app_id) {
        let below = format!("{place}.");
        unread.lacks(|key| key.starts_with(&below))?;
    }
    if let Some(app) = find(std::mem::take(&mut config.apps)) {
        return Ok(app);
    }
    unread.lacks(|key| key == "store.key")?;
    let missing = || format!("no `[[app]]` has the app_id {app_id}");
    if config.store.key.is_none() {
        let text = format!(
            "{}, and without `store.key` no store can have it; {OR_GIVE}",
            missing()
        );
        return Err(anyhow!(text).into());
    }
    let key = context.store_key(&config)?;
    let unread = || {
        format!(
            "{}, and the store can't be looked into; {OR_GIVE}",
            missing()
        )
    };
    let stored = embedded::apps_of(&config.store.path, &key).with_context(unread)?;
    find(stored).ok_or_else(|| {
        let app_id = app_id.to_string();
        let text = format!("{}; {OR_GIVE}", missing());
        anyhow::Error::from(AdminError::AppUnknown { app_id })
            .context(text)
            .into()
    })
}

/// What else there is to work with.
const OR_GIVE: &str = "`sign` takes --private-key in its place, `verify` --alipay-public-key";

/// What can't be read says nothing about a signature: not 1 but 2.
pub(crate) fn unreadable(failure: Failure) -> Failure {
    match failure {
        Failure::Other(error) => Failure::Usage(format!("{error:#}")),
        other => other,
    }
}
