//! `completions`: what a shell completes, made from the arguments themselves.

use clap::Args;
use clap_complete::{Shell, generate};

use crate::cli::failure::Failure;
use crate::cli::{described, output};

#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// Whose: bash reads them from /usr/share/bash-completion/completions/alipay-sidecar, zsh from
    /// _alipay-sidecar in a directory of its $fpath, fish from
    /// ~/.config/fish/completions/alipay-sidecar.fish; the others from a file of your profile
    shell: Shell,
}

pub(crate) fn execute(arguments: &CompletionsArguments) -> Result<(), Failure> {
    let mut command = described();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(arguments.shell, &mut command, &name, &mut script);
    let script = String::from_utf8(script).map_err(anyhow::Error::from)?;
    let script = match arguments.shell {
        Shell::Bash => one_spelling(&script, &name),
        _ => script,
    };
    output::say_bytes(script.as_bytes());
    Ok(())
}

/// clap_complete (clap-rs/clap#6421) spells a program's name with a hyphen in two ways in the script
/// of bash, so that nothing behind the first verb would be completed.
fn one_spelling(script: &str, name: &str) -> String {
    let (wrong, right) = (name.replace('-', "__subcmd__"), name.replace('-', "__"));
    script.replace(&wrong, &right)
}
