//! `merchant add|list|show|remove`; the verbs that do more have files of their own.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::admin::merchants::MerchantView;
use crate::admin::page::DEFAULT_LIMIT;
use crate::cli::backend::{Backend, Part};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::{
    input, merchant_export, merchant_import, merchant_link, merchant_verify, output, records,
};
use crate::model::id::{Alias, AppId, AuthAppId, Pid};
use crate::model::selector::Selector;

#[derive(Debug, Subcommand)]
pub(crate) enum MerchantVerb {
    /// Add or replace one merchant
    Add(AddArguments),
    /// Write every merchant down: without tokens, or sealed to a key
    Export(merchant_export::ExportArguments),
    /// Import merchants from JSON lines, all or nothing
    Import(merchant_import::ImportArguments),
    /// Print a link that lets a merchant authorise us
    Link(merchant_link::LinkArguments),
    /// List merchants
    List(ListArguments),
    /// Open a sealed export without storing it
    OpenExport(merchant_export::OpenArguments),
    /// Forget a merchant and its tokens; with --app APP app:AUTH_APP_ID one whose record is damaged, too
    Remove(OneArguments),
    /// Show one merchant
    Show(OneArguments),
    /// Prove records at Alipay; exit code 1 if any isn't proved
    Verify(merchant_verify::VerifyArguments),
}

#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// Our application
    #[arg(long)]
    app: AppId,
    /// The merchant's application
    #[arg(long)]
    auth_app_id: AuthAppId,
    /// The merchant's PID
    #[arg(long)]
    pid: Option<Pid>,
    /// A name of your own for it
    #[arg(long)]
    alias: Option<Alias>,
    /// Reference of the app_auth_token, or - for the terminal or standard input; a pipe or a command
    /// may take its time
    #[arg(long, value_name = "REF")]
    token: String,
    /// Reference of the app_refresh_token
    #[arg(long, value_name = "REF")]
    refresh_token: Option<String>,
    /// Reference of the merchant's AES key
    #[arg(long, value_name = "REF")]
    encrypt_key: Option<String>,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct ListArguments {
    /// Begin after this merchant (app_id/auth_app_id)
    #[arg(long)]
    after: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = DEFAULT_LIMIT)]
    limit: usize,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct OneArguments {
    /// A PID, an auth_app_id or an alias
    selector: String,
    /// Our application, where several have it
    #[arg(long)]
    app: Option<AppId>,
    #[command(flatten)]
    form: Form,
}

pub(crate) async fn execute(context: &Context, verb: MerchantVerb) -> Result<(), Failure> {
    match verb {
        MerchantVerb::Add(arguments) => add(context, arguments).await,
        MerchantVerb::Export(arguments) => merchant_export::export(context, arguments).await,
        MerchantVerb::Import(arguments) => merchant_import::import(context, arguments).await,
        MerchantVerb::Link(arguments) => merchant_link::link(context, arguments).await,
        MerchantVerb::List(arguments) => list(context, arguments).await,
        MerchantVerb::OpenExport(arguments) => merchant_export::open(arguments),
        MerchantVerb::Remove(arguments) => {
            let backend = Backend::of(context).await?;
            let (app_id, auth_app_id) = match exact(&arguments) {
                Some(id) => id,
                None => {
                    let view = one(&backend, &arguments).await?;
                    (view.app_id, view.auth_app_id)
                }
            };
            backend.remove_merchant(&app_id, &auth_app_id).await?;
            if arguments.form.json {
                return output::say_json(&json!({
                    "app_id": app_id,
                    "auth_app_id": auth_app_id,
                    "removed": true,
                }));
            }
            let name = format!("{app_id}/{auth_app_id}");
            output::say(format!("merchant {name} is forgotten"));
            Ok(())
        }
        MerchantVerb::Show(arguments) => {
            let backend = Backend::of(context).await?;
            show(&one(&backend, &arguments).await?, &arguments.form)
        }
        MerchantVerb::Verify(arguments) => merchant_verify::verify(context, arguments).await,
    }
}

/// Says that no call can be made for a merchant of `app` yet, or why nobody can tell: it is stored all
/// the same.
async fn warn_of_unusable(backend: &Backend, app: &AppId) {
    match backend.apps().await {
        Ok(apps) if apps.items.iter().any(|view| view.app_id == app.as_str()) => {}
        Ok(_) => output::complain(format!(
            "warning: app {app} is neither configured nor stored; no call can be made for it yet"
        )),
        Err(failure) => output::complain(format!(
            "warning: the merchant is stored, and whether app {app} is there can't be told: {}",
            failure.text()
        )),
    }
}

async fn add(context: &Context, arguments: AddArguments) -> Result<(), Failure> {
    let token = input::secret("--token", &arguments.token)?;
    let refresh = input::optional_secret("--refresh-token", arguments.refresh_token.as_deref())?;
    let encrypt_key = input::optional_secret("--encrypt-key", arguments.encrypt_key.as_deref())?;
    let body = json!({
        "user_id": arguments.pid.as_ref().map(Pid::as_str),
        "alias": arguments.alias.as_ref().map(Alias::as_str),
        "app_auth_token": token.expose(),
        "app_refresh_token": refresh.as_ref().map(|token| token.expose()),
        "encrypt_key": encrypt_key.as_ref().map(|key| key.expose()),
    });
    let backend = Backend::of(context).await?;
    let key = (&arguments.app, &arguments.auth_app_id);
    let view = backend
        .put_merchant(key, body.to_string().into_bytes())
        .await?;
    warn_of_unusable(&backend, &arguments.app).await;
    show(&view, &arguments.form)
}

async fn list(context: &Context, arguments: ListArguments) -> Result<(), Failure> {
    let part = Part {
        after: arguments.after.as_deref(),
        limit: arguments.limit,
    };
    let page = Backend::of(context).await?.merchants(part).await?;
    for name in &page.damaged {
        output::complain(format!("warning: the record of {name} can't be read"));
    }
    if arguments.form.json {
        return output::say_json(&page);
    }
    let row = |view: &MerchantView| {
        [
            view.app_id.clone(),
            view.auth_app_id.clone(),
            output::or_dash(view.user_id.as_deref()),
            output::or_dash(view.alias.as_deref()),
            view.status.clone(),
            output::time_of(view.auth_time),
        ]
    };
    let header = [
        "app_id",
        "auth_app_id",
        "user_id",
        "alias",
        "status",
        "auth_time",
    ];
    output::say_table(header, page.items.iter().map(row).collect());
    if let Some(next) = page.next {
        output::say(format!("more: --after {next}"));
    }
    Ok(())
}

/// The ids of the merchant, where the arguments say both: its record needn't be read then, and may be
/// damaged. Digits that may be a PID say neither.
fn exact(arguments: &OneArguments) -> Option<(String, String)> {
    let auth_app_id = match arguments.selector.parse().ok()? {
        Selector::AuthAppId(id) => id,
        Selector::Number(id) if Pid::new(id.as_str()).is_err() => id,
        _ => return None,
    };
    let app_id = arguments.app.as_ref()?;
    Some((app_id.to_string(), auth_app_id.to_string()))
}

/// The one merchant that is meant.
async fn one(backend: &Backend, arguments: &OneArguments) -> Result<MerchantView, Failure> {
    let selector = &arguments.selector;
    let found = backend
        .find_merchants(arguments.app.as_ref(), selector)
        .await?;
    records::only(found, selector)
}

pub(crate) fn show(view: &MerchantView, form: &Form) -> Result<(), Failure> {
    if form.json {
        return output::say_json(view);
    }
    let estimated = if view.auth_time_estimated {
        " (estimated)"
    } else {
        ""
    };
    let lines = [
        ("app_id", view.app_id.clone()),
        ("auth_app_id", view.auth_app_id.clone()),
        ("user_id", output::or_dash(view.user_id.as_deref())),
        ("alias", output::or_dash(view.alias.as_deref())),
        ("ref", output::or_dash(view.reference.as_deref())),
        ("status", view.status.clone()),
        ("doubt", output::or_dash(view.doubt.as_deref())),
        (
            "revoked_at",
            output::or_dash(view.revoked_at.map(output::time_of).as_deref()),
        ),
        ("auth_time", output::time_of(view.auth_time) + estimated),
        ("source", view.source.clone()),
        ("token", format!("sha256 {}…", view.token_fingerprint)),
    ];
    for (name, value) in lines {
        output::say_line(format!("{name:12} {value}"));
    }
    Ok(())
}
