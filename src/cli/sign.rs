//! `sign`: a signature offline, with what it was made over.

use clap::Args;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::{self, Form};
use crate::cli::verify_keys;
use crate::model::id::AppId;
use crate::protocol::charset::Charset;
use crate::protocol::diagnosis::visible;
use crate::protocol::key::AppPrivateKey;
use crate::protocol::params::{Params, name};
use crate::protocol::sign_content;
use crate::protocol::signature::SignType;

#[derive(Debug, Args)]
pub(crate) struct SignArguments {
    /// The application that signs, configured or in the store
    #[arg(long, value_name = "APP_ID", required_unless_present = "private_key")]
    app: Option<AppId>,
    /// Reference of the private key that signs, instead of an application's; never the key itself; a
    /// pipe or a command may take its time
    #[arg(
        long,
        value_name = "REF",
        conflicts_with = "app",
        allow_hyphen_values = true
    )]
    private_key: Option<String>,
    /// The charset to sign in; by default that of the parameter `charset`, else utf-8
    #[arg(long, value_name = "CHARSET")]
    charset: Option<String>,
    /// The algorithm; by default that of the parameter `sign_type`, else the application's
    #[arg(long, value_parser = ["RSA2", "RSA"])]
    sign_type: Option<String>,
    /// Also show what was signed, byte by byte, and with which key
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    form: Form,
    /// The parameters of the call, decoded
    #[arg(required = true, value_name = "NAME=VALUE")]
    params: Vec<String>,
}

pub(crate) fn execute(context: &Context, arguments: &SignArguments) -> Result<(), Failure> {
    let params = params(&arguments.params)?;
    let given = (arguments.app.as_ref(), arguments.private_key.as_deref());
    let (key, of_app, mix_up) = verify_keys::signing_key(context, given)?;
    let spelled = arguments
        .sign_type
        .as_deref()
        .or_else(|| params.get(name::SIGN_TYPE));
    let sign_type = match spelled {
        None => of_app,
        Some(spelled) => spelled.parse().map_err(usage)?,
    };
    let label = arguments
        .charset
        .as_deref()
        .or_else(|| params.get(name::CHARSET));
    let charset = label
        .map_or(Ok(Charset::Utf8), Charset::from_label)
        .map_err(usage)?;
    let text = sign_content::v2_request(&params);
    let content = charset.encode(&text).map_err(usage)?;
    let sign = key.sign(sign_type, &content).map_err(anyhow::Error::from)?;
    let notes = notes(&params).into_iter().chain(mix_up).collect();
    let signed = Signed {
        key,
        sign_type,
        charset,
        content,
        sign,
        notes,
    };
    match (arguments.form.json, arguments.explain) {
        (true, _) => signed.say_json(),
        (false, true) => {
            signed.explain();
            Ok(())
        }
        (false, false) => {
            output::say(&signed.sign);
            Ok(())
        }
    }
}

struct Signed {
    key: AppPrivateKey,
    sign_type: SignType,
    charset: Charset,
    content: Vec<u8>,
    sign: String,
    notes: Vec<String>,
}

impl Signed {
    fn explain(&self) {
        let bytes = self.content.len();
        output::say(format!("sign          {}", self.sign));
        output::say(format!("sign content  {}", visible(&self.content)));
        output::say(format!(
            "length        {bytes} bytes in {}",
            self.charset.label()
        ));
        output::say(format!(
            "sha256        {}",
            hex(&Sha256::digest(&self.content))
        ));
        output::say(format!("hex           {}", hex(&self.content)));
        output::say(format!("sign_type     {}", self.sign_type));
        let public = self.key.public_key();
        output::say(format!(
            "应用公钥        sha256 {}, {} bits",
            public.fingerprint(),
            public.bits()
        ));
        for note in &self.notes {
            output::say(format!("note          {note}"));
        }
    }

    fn say_json(&self) -> Result<(), Failure> {
        output::say_json(&json!({
            "sign": self.sign,
            "sign_type": self.sign_type.as_str(),
            "charset": self.charset.label(),
            "sign_content": self.charset.decode(&self.content).ok(),
            "sign_content_bytes": self.content.len(),
            "sign_content_sha256": hex(&Sha256::digest(&self.content)),
            "sign_content_hex": hex(&self.content),
            "app_public_key_sha256": self.key.public_key().fingerprint(),
            "notes": self.notes,
        }))
    }
}

fn params(given: &[String]) -> Result<Params, Failure> {
    let mut params = Params::new();
    for (number, param) in given.iter().enumerate() {
        let Some((name, value)) = param.split_once('=') else {
            // It isn't shown: it may be a value.
            let text = format!("parameter {}: expected NAME=VALUE", number + 1);
            return Err(Failure::Usage(text));
        };
        params.push(name, value).map_err(usage)?;
    }
    Ok(params)
}

/// Says what was left out of the signature, and what Alipay will miss.
fn notes(params: &Params) -> Vec<String> {
    const COMMON: [&str; 6] = [
        name::APP_ID,
        name::METHOD,
        name::CHARSET,
        name::SIGN_TYPE,
        name::TIMESTAMP,
        name::VERSION,
    ];
    let mut notes: Vec<String> = Vec::new();
    let kept = params.clone().without_empty();
    let is_left_out = |name: &&str| *name == name::SIGN || kept.get(name).is_none();
    let left_out = params.iter().map(|(name, _)| name).filter(is_left_out);
    notes.extend(left_out.map(|name| match name {
        name::SIGN => "`sign` is left out: it never signs itself".to_owned(),
        name => format!("`{name}` is empty and left out; don't send it either"),
    }));
    let is_missing = |name: &&str| kept.get(name).is_none();
    let missing: Vec<_> = COMMON.into_iter().filter(is_missing).collect();
    if !missing.is_empty() {
        notes.push(format!(
            "a call needs these, too, and they are signed: {}",
            missing.join(", ")
        ));
    }
    notes
}

fn usage(error: impl std::fmt::Display) -> Failure {
    Failure::Usage(error.to_string())
}

/// Writes bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
