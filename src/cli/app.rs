//! `app add|list|show|remove|subscribe`.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::admin::apps::{AppOrigin, AppView};
use crate::cli::backend::Backend;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::{app_subscribe, input, output};
use crate::model::id::AppId;

#[derive(Debug, Subcommand)]
pub(crate) enum AppVerb {
    /// Keep an app, sealed, in the store
    Add(Box<AddArguments>),
    /// List the apps of the configuration and of the store
    List {
        #[command(flatten)]
        form: Form,
    },
    /// Forget an app of the store
    Remove {
        /// The application's id
        app_id: AppId,
        #[command(flatten)]
        form: Form,
    },
    /// Show one app
    Show {
        /// The application's id
        app_id: AppId,
        #[command(flatten)]
        form: Form,
    },
    /// Turn on the messages that tell of cancellations
    Subscribe(app_subscribe::SubscribeArguments),
}

#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// The application's id
    #[arg(long)]
    app_id: AppId,
    /// Reference of the application's private key, or - for standard input; a pipe or a command may
    /// take its time
    #[arg(long, value_name = "REF")]
    private_key: String,
    /// Reference of Alipay's public key (支付宝公钥), or the key itself; again during a change
    #[arg(long, value_name = "REF", required_unless_present = "alipay_cert")]
    alipay_public_key: Vec<String>,
    /// Certificate mode: reference of the application's certificate (appCertPublicKey_….crt)
    #[arg(long, value_name = "REF", requires_all = ["alipay_cert", "alipay_root_cert"])]
    app_cert: Vec<String>,
    /// Reference of Alipay's certificate (alipayCertPublicKey_RSA2.crt)
    #[arg(long, value_name = "REF", requires_all = ["app_cert", "alipay_root_cert"])]
    alipay_cert: Vec<String>,
    /// Reference of Alipay's root certificates (alipayRootCert.crt)
    #[arg(long, value_name = "REF", requires_all = ["app_cert", "alipay_cert"])]
    alipay_root_cert: Option<String>,
    /// Reference of the private key that follows during a key change
    #[arg(long, value_name = "REF")]
    private_key_next: Option<String>,
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
        AppVerb::Add(arguments) => add(context, *arguments).await,
        AppVerb::List { form } => list(context, &form).await,
        AppVerb::Remove { app_id, form } => {
            let backend = Backend::of(context).await?;
            backend.remove_app(&app_id).await?;
            warn_of_configured(&backend, &app_id).await;
            if form.json {
                return output::say_json(&json!({ "app_id": app_id.as_str(), "removed": true }));
            }
            output::say(format!("app {app_id} is forgotten"));
            Ok(())
        }
        AppVerb::Show { app_id, form } => {
            let view = Backend::of(context).await?.app(&app_id).await?;
            show(&view, &form)
        }
        AppVerb::Subscribe(arguments) => app_subscribe::subscribe(context, arguments).await,
    }
}

async fn add(context: &Context, arguments: AddArguments) -> Result<(), Failure> {
    let private_key = input::secret_text("--private-key", &arguments.private_key)?;
    let encrypt_key = input::optional_secret("--encrypt-key", arguments.encrypt_key.as_deref())?;
    let next = arguments.private_key_next.as_deref();
    let next = input::optional_secret("--private-key-next", next)?;
    let roots = arguments.alipay_root_cert.as_deref();
    let roots = roots.map(|reference| input::public("--alipay-root-cert", reference));
    let body = json!({
        "private_key": private_key.expose(),
        "private_key_next": next.as_ref().map(|key| key.expose()),
        "alipay_public_key": public("--alipay-public-key", &arguments.alipay_public_key)?,
        "app_cert": public("--app-cert", &arguments.app_cert)?,
        "alipay_cert": public("--alipay-cert", &arguments.alipay_cert)?,
        "alipay_root_cert": roots.transpose()?,
        "encrypt_key": encrypt_key.as_ref().map(|key| key.expose()),
        "environment": arguments.environment,
        "sign_type": arguments.sign_type,
    });
    let backend = Backend::of(context).await?;
    let app_id = &arguments.app_id;
    let view = backend
        .put_app(app_id, body.to_string().into_bytes())
        .await?;
    warn_of_configured(&backend, app_id).await;
    show(&view, &arguments.form)
}

/// What the store has, or has no more, makes no difference where the configuration has an app.
async fn warn_of_configured(backend: &Backend, app_id: &AppId) {
    let used = backend.app(app_id).await;
    if used.is_ok_and(|view| view.origin == AppOrigin::Config) {
        output::complain(format!(
            "warning: the configuration has app {app_id}, and goes before the store: calls are made with \
             what stands there"
        ));
    }
}

fn public(argument: &str, references: &[String]) -> Result<Vec<String>, Failure> {
    let references = references.iter();
    references
        .map(|reference| input::public(argument, reference))
        .collect()
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
    output::say(format!("gateway      {}", view.gateway));
    output::say(format!("v3           {}", view.v3));
    output::say(format!("authorize    {}", view.authorize));
    output::say(format!("sign_type    {}", view.sign_type));
    output::say(format!("origin       {}", origin(view.origin)));
    for fingerprint in &view.alipay_public_key_fingerprints {
        output::say(format!("支付宝公钥     sha256 {fingerprint}"));
    }
    for (name, sn) in [
        ("app_cert_sn", view.app_cert_sn.as_ref()),
        ("root_cert_sn", view.alipay_root_cert_sn.as_ref()),
    ] {
        if let Some(sn) = sn {
            output::say(format!("{name:<12} {sn}"));
        }
    }
    for sn in &view.alipay_cert_sns {
        output::say(format!("alipay_cert  {sn}"));
    }
    let public_key = output::or_dash(view.app_public_key.as_deref());
    output::say(format!("应用公钥       {public_key}"));
    if view.private_key_elsewhere {
        output::say("private_key  elsewhere: the host of the sidecar has it signed with");
    }
    Ok(())
}

fn origin(origin: AppOrigin) -> &'static str {
    match origin {
        AppOrigin::Config => "config",
        AppOrigin::Store => "store",
    }
}
