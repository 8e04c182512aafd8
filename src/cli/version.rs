//! `version`.

use clap::Args;
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::output::Form;

#[derive(Debug, Args)]
pub(crate) struct VersionArguments {
    #[command(flatten)]
    form: Form,
}

pub(crate) fn execute(arguments: &VersionArguments) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if arguments.form.json {
        return output::say_json(&json!({ "name": "alipay-sidecar", "version": version }));
    }
    output::say(format!("alipay-sidecar {version}"));
    Ok(())
}
