//! `app add|list|show|remove`.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::admin::apps::{AppOrigin, AppView};
use crate::cli::backend::Backend;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::{input, output};
use crate::model::id::AppId;

#[derive(Debug, Subcommand)]
pub(crate) enum AppVerb {
    /// Keep an app, sealed, in the store
    Add(AddArguments),
    /// List the apps of the configuration and of the store
    List {
        #[command(flatten)]
        form: Form,
    },
    /// Forget an app of the store
    Remove {
        /// The application's id
        app_id: AppId,
    },
    /// Show one app
    Show {
        /// The application's id
        app_id: AppId,
        #[command(flatten)]
        form: Form,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// The application's id
    #[arg(long)]
    app_id: AppId,
    /// Reference of the application's private key, or - for standard input
    #[arg(long, value_name = "REF")]
    private_key: String,
    /// Reference of Alipay's public key (支付宝公钥), or the key itself; again during a change
    #[arg(long, value_name = "REF", required = true)]
    alipay_public_key: Vec<String>,
    /// Reference of the AES key
    #[arg(long, value_name = "REF")]
    encrypt_key: Option<String>,
    /// Which of Alipay's worlds
    #[arg(long, value_parser = ["production", "sandbox"], default_value = "production")]
    environment: String,
    /// How it signs
    #[arg(long, value_parser = ["RSA2", "RSA"], default_value = "RSA2")]
    sign_type: String,
    #[command(flatten)]
    form: Form,
}

pub(crate) async fn execute(context: &Context, verb: AppVerb) -> Result<(), Failure> {
    match verb {
        AppVerb::Add(arguments) => add(context, arguments).await,
        AppVerb::List { form } => list(context, &form).await,
        AppVerb::Remove { app_id } => {
            let backend = Backend::of(context).await?;
            backend.remove_app(&app_id).await?;
            output::say(format!("app {app_id} is forgotten"));
            Ok(())
        }
        AppVerb::Show { app_id, form } => {
            let view = Backend::of(context).await?.app(&app_id).await?;
            show(&view, &form)
        }
    }
}

async fn add(context: &Context, arguments: AddArguments) -> Result<(), Failure> {
    let private_key = input::secret_text("--private-key", &arguments.private_key)?;
    let encrypt_key = input::optional_secret("--encrypt-key", arguments.encrypt_key.as_deref())?;
    let references = arguments.alipay_public_key.iter();
    let alipay_public_key: Vec<String> = references
        .map(|reference| input::public("--alipay-public-key", reference))
        .collect::<Result<_, _>>()?;
    let body = json!({
        "private_key": private_key.expose(),
        "alipay_public_key": alipay_public_key,
        "encrypt_key": encrypt_key.as_ref().map(|key| key.expose()),
        "environment": arguments.environment,
        "sign_type": arguments.sign_type,
    });
    let backend = Backend::of(context).await?;
    let app_id = &arguments.app_id;
    let view = backend
        .put_app(app_id, body.to_string().into_bytes())
        .await?;
    show(&view, &arguments.form)
}

async fn list(context: &Context, form: &Form) -> Result<(), Failure> {
    let page = Backend::of(context).await?.apps().await?;
    if form.json {
        return output::say_json(&page);
    }
    let rows = page.items.into_iter().map(|view| {
        let origin = origin(view.origin).to_owned();
        [view.app_id, view.environment, view.sign_type, origin]
    });
    output::say_table(
        ["app_id", "environment", "sign_type", "origin"],
        rows.collect(),
    );
    Ok(())
}

fn show(view: &AppView, form: &Form) -> Result<(), Failure> {
    if form.json {
        return output::say_json(view);
    }
    output::say(format!("app_id       {}", view.app_id));
    output::say(format!("environment  {}", view.environment));
    output::say(format!("sign_type    {}", view.sign_type));
    output::say(format!("origin       {}", origin(view.origin)));
    for fingerprint in &view.alipay_public_key_fingerprints {
        output::say(format!("支付宝公钥     sha256 {fingerprint}"));
    }
    let public_key = output::or_dash(view.app_public_key.as_deref());
    output::say(format!("应用公钥       {public_key}"));
    Ok(())
}

fn origin(origin: AppOrigin) -> &'static str {
    match origin {
        AppOrigin::Config => "config",
        AppOrigin::Store => "store",
    }
}
