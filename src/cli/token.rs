//! `token exchange|refresh|query`: the app_auth_token by hand.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;

use crate::admin::authorizations::DescriptionView;
use crate::admin::merchants::MerchantView;
use crate::admin::page::Page;
use crate::cli::admin_client::AdminClient;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::{input, merchant, output, records};
use crate::model::id::AppId;
use crate::protocol::secret::Secret;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Exchange an app_auth_code, good once within 24 h, and keep what it gives
    Exchange(ExchangeArguments),
    /// Ask Alipay what a merchant's token is; exit code 1 where it doesn't hold, or is another's
    Query(MerchantArguments),
    /// Buy a merchant's next pair of tokens
    Refresh(MerchantArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ExchangeArguments {
    /// Our application; with one only, it is implied
    #[arg(long)]
    app: Option<AppId>,
    /// The app_auth_code, or - for the terminal or standard input
    #[arg(long, allow_hyphen_values = true)]
    code: String,
    /// Your own tenant id
    #[arg(long = "ref", value_name = "REF")]
    reference: Option<String>,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct MerchantArguments {
    /// A PID, an auth_app_id or an alias
    #[arg(long, value_name = "S")]
    merchant: String,
    /// Our application, where several have it
    #[arg(long)]
    app: Option<AppId>,
    #[command(flatten)]
    form: Form,
}

pub(crate) async fn execute(context: &Context, verb: TokenVerb) -> Result<(), Failure> {
    match verb {
        TokenVerb::Exchange(arguments) => exchange(context, arguments).await,
        TokenVerb::Query(arguments) => query(context, &arguments).await,
        TokenVerb::Refresh(arguments) => refresh(context, &arguments).await,
    }
}

async fn exchange(context: &Context, arguments: ExchangeArguments) -> Result<(), Failure> {
    let code = match arguments.code.as_str() {
        "-" => input::secret("--code", "-")?,
        _ => Secret::new(arguments.code),
    };
    let client = AdminClient::of(context).await?;
    let app_id = records::app(&client, arguments.app.as_ref()).await?;
    let path = format!("/api/apps/{app_id}/exchange");
    let body = json!({"code": code.expose(), "ref": arguments.reference});
    let body = body.to_string().into_bytes();
    let page: Page<MerchantView> = client.change(Method::POST, &path, body).await?;
    if arguments.form.json {
        return output::say_json(&page);
    }
    for view in &page.items {
        merchant::show(view, &arguments.form)?;
    }
    Ok(())
}

async fn refresh(context: &Context, arguments: &MerchantArguments) -> Result<(), Failure> {
    let client = AdminClient::of(context).await?;
    let view = records::merchant(&client, arguments.app.as_ref(), &arguments.merchant).await?;
    let path = format!("{}/refresh", records::path(&view));
    let view: MerchantView = client.change(Method::POST, &path, Vec::new()).await?;
    merchant::show(&view, &arguments.form)
}

async fn query(context: &Context, arguments: &MerchantArguments) -> Result<(), Failure> {
    let client = AdminClient::of(context).await?;
    let view = records::merchant(&client, arguments.app.as_ref(), &arguments.merchant).await?;
    let path = format!("{}/token", records::path(&view));
    let said: DescriptionView = client.get(&path).await?;
    if arguments.form.json {
        output::say_json(&said)?;
    } else {
        show(&said);
    }
    let name = records::name(&view);
    match said.status.as_str() {
        "valid" => {}
        other => {
            let text = format!("Alipay calls the token of {name} {other}");
            return Err(Failure::told(text));
        }
    }
    match whose_else(&view, &said) {
        None => Ok(()),
        Some(other) => Err(Failure::told(format!(
            "the token of {name} holds, but Alipay says that it is {other}'s"
        ))),
    }
}

/// Whom Alipay names as the token's owner, where that isn't whom the record says.
fn whose_else<'a>(view: &MerchantView, said: &'a DescriptionView) -> Option<&'a str> {
    let other_app = said.auth_app_id.as_deref();
    let other_app = other_app.filter(|said| *said != view.auth_app_id);
    let pids = said.user_id.as_deref().zip(view.user_id.as_deref());
    let other_pid = pids.filter(|(said, known)| said != known);
    other_app.or_else(|| other_pid.map(|(said, _)| said))
}

fn show(said: &DescriptionView) {
    for (name, value) in [
        ("status", Some(said.status.as_str())),
        ("auth_app_id", said.auth_app_id.as_deref()),
        ("user_id", said.user_id.as_deref()),
        ("auth_start", said.auth_start.as_deref()),
        ("auth_end", said.auth_end.as_deref()),
    ] {
        output::say_line(format!("{name:12} {}", output::or_dash(value)));
    }
    for method in &said.auth_methods {
        output::say_line(format!("{:12} {method}", "may"));
    }
}
