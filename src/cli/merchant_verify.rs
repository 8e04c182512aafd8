//! `merchant verify`: records proved at Alipay.

use clap::{ArgGroup, Args};
use http::Method;

use crate::admin::authorizations::VerdictView;
use crate::admin::merchants::MerchantView;
use crate::cli::admin_client::AdminClient;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::{output, pace, records};
use crate::model::id::AppId;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").args(["selector", "all"]).required(true))]
pub(crate) struct VerifyArguments {
    /// A PID, an auth_app_id or an alias
    selector: Option<String>,
    /// Every merchant whose authorisation stands
    #[arg(long)]
    all: bool,
    /// Our application, where several have it; with --all, only its merchants
    #[arg(long)]
    app: Option<AppId>,
    /// Only report: fill in no PID, mark nobody as cancelled
    #[arg(long)]
    dry_run: bool,
    /// With --all: how many a second
    #[arg(long, default_value_t = pace::RATE, value_parser = clap::value_parser!(u32).range(1..=pace::MOST))]
    rate: u32,
    #[command(flatten)]
    form: Form,
}

pub(crate) async fn verify(context: &Context, arguments: VerifyArguments) -> Result<(), Failure> {
    let client = AdminClient::of(context).await?;
    let ask = async |view: MerchantView| {
        let path = format!(
            "{}/verify?dry_run={}",
            records::path(&view),
            arguments.dry_run
        );
        client
            .change::<VerdictView>(Method::POST, &path, Vec::new())
            .await
    };
    let Some(selector) = &arguments.selector else {
        return all(&client, &arguments, ask).await;
    };
    let view = records::merchant(&client, arguments.app.as_ref(), selector).await?;
    let verdict = ask(view).await?;
    if arguments.form.json {
        output::say_json(&verdict)?;
    } else {
        output::say_line(line(&verdict));
    }
    match is_proved(&verdict) {
        true => Ok(()),
        false => {
            let text = format!("the record isn't proved: {}", verdict.verdict);
            Err(Failure::told(text))
        }
    }
}

async fn all(
    client: &AdminClient,
    arguments: &VerifyArguments,
    ask: impl AsyncFn(MerchantView) -> Result<VerdictView, Failure>,
) -> Result<(), Failure> {
    let mut unproved: u64 = 0;
    let take = |verdict: VerdictView| {
        unproved += u64::from(!is_proved(&verdict));
        // One line each, as they come: nobody holds a million of them.
        match arguments.form.json {
            true => output::say_json_line(&verdict)?,
            false => output::say_line(line(&verdict)),
        }
        Ok(())
    };
    let which = (arguments.app.as_ref(), arguments.rate);
    let tally = pace::each(client, which, ask, take).await?;
    let (asked, unproved) = (tally.merchants, unproved + tally.unasked);
    output::complain(format!("{asked} asked about, {unproved} not proved"));
    match unproved {
        0 => Ok(()),
        some => {
            let text = format!("{some} of {asked} records aren't proved");
            Err(pace::failed(text, tally.unasked, &arguments.form))
        }
    }
}

fn is_proved(verdict: &VerdictView) -> bool {
    verdict.verdict == "valid"
}

fn line(view: &VerdictView) -> String {
    let mut notes = Vec::new();
    if view.verdict == "differs" {
        let app = output::or_dash(view.said_auth_app_id.as_deref());
        let pid = output::or_dash(view.said_user_id.as_deref());
        notes.push(format!("Alipay says auth_app_id {app}, user_id {pid}"));
    }
    if view.pid_filled {
        let pid = output::or_dash(view.user_id.as_deref());
        notes.push(format!("user_id {pid} filled in"));
    }
    if view.renewed {
        notes.push("the token didn't hold; a new pair was bought".to_owned());
    }
    if view.marked {
        notes.push("marked as cancelled".to_owned());
    }
    if view.cleared {
        notes.push("no longer suspect".to_owned());
    }
    notes.extend(view.error.clone());
    let (app_id, auth_app_id) = (&view.app_id, &view.auth_app_id);
    let line = format!(
        "{:8} {app_id}/{auth_app_id}  {}",
        view.verdict,
        notes.join("; ")
    );
    line.trim_end().to_owned()
}
