//! `merchant export`: every record, without tokens, or with them, sealed to a key.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;
use http::Method;
use serde_json::json;

use crate::admin::export::SealedPage;
use crate::admin::page::LARGEST_LIMIT;
use crate::admin::sealing::Opener;
use crate::cli::admin_client::{AdminClient, encoded};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::sealed_file::SealedFile;
use crate::cli::{input, output, records};

#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct ExportArguments {
    /// Everything that `merchant import` needs, sealed to the key of --to-key
    #[arg(long, requires = "to_key")]
    with_tokens: bool,
    /// Reference of the recipient's RSA public key (PEM, at least 2048 bits), or the key itself
    #[arg(long, value_name = "REF", requires = "with_tokens")]
    to_key: Option<String>,
    /// A new file, which only you can read; standard output by default
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print JSON, as it does in any case: one object a line
    #[arg(long)]
    json: bool,
}

pub(crate) async fn export(context: &Context, arguments: ExportArguments) -> Result<(), Failure> {
    let key = arguments.to_key.as_deref();
    let key = key.map(|key| input::public("--to-key", key)).transpose()?;
    if key.is_some() && arguments.out.is_none() && std::io::stdout().is_terminal() {
        let text = "tokens, even sealed ones, aren't written to a terminal; use --out FILE";
        return Err(Failure::Usage(text.to_owned()));
    }
    let client = AdminClient::of(context).await?;
    let is_on_stdout = arguments.out.is_none();
    let mut sink = Sink::open(arguments.out)?;
    let written = match &key {
        None => plain(&client, &mut sink).await,
        Some(key) => sealed(&client, &mut sink, key).await,
    };
    match written {
        Ok(Written { count, left_out }) => {
            sink.finish()?;
            output::complain(format!("{count} merchants"));
            match left_out {
                0 => Ok(()),
                left_out => {
                    let text = format!(
                        "{left_out} more aren't in it: their records don't open; `store check` names them"
                    );
                    Err(match is_on_stdout {
                        // Nothing but the export may stand there.
                        true => Failure::told(text),
                        false => anyhow!(text).into(),
                    })
                }
            }
        }
        Err(failure) => {
            sink.discard();
            Err(failure)
        }
    }
}

/// What was exported.
struct Written {
    count: usize,
    /// How many merchants more the store has, which can't be read.
    left_out: u64,
}

#[derive(Debug, Args)]
pub(crate) struct OpenArguments {
    /// A file of `merchant export --with-tokens`
    file: PathBuf,
    /// Reference of the recipient's private key
    #[arg(long, value_name = "REF")]
    key: String,
    /// A new file, which only you can read; it holds tokens in clear
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Needs neither a configuration nor a store: whoever has the key may not be locked in.
pub(crate) fn open(arguments: OpenArguments) -> Result<(), Failure> {
    let key = input::secret_text("--key", &arguments.key)?;
    let opener = Opener::from_text(key.expose()).context("--key")?;
    let mut sink = Sink::open(Some(arguments.out))?;
    match opened(&arguments.file, &opener, &mut sink) {
        Ok(parts) => {
            sink.finish()?;
            output::complain(format!("{parts} parts opened"));
            Ok(())
        }
        Err(failure) => {
            sink.discard();
            Err(failure)
        }
    }
}

fn opened(path: &Path, opener: &Opener, sink: &mut Sink) -> Result<u64, Failure> {
    let mut file = SealedFile::open(path, opener)?;
    while let Some(part) = file.read()? {
        sink.bytes(&part.plain)?;
    }
    Ok(file.parts())
}

async fn plain(client: &AdminClient, sink: &mut Sink) -> Result<Written, Failure> {
    let (mut after, mut count, mut left_out) = (None, 0, 0);
    loop {
        let page = records::page(client, after.as_deref()).await?;
        count += page.items.len();
        for name in page.damaged {
            output::complain(format!("left out: the record of {name} can't be read"));
            left_out += 1;
        }
        for view in &page.items {
            let line = serde_json::to_string(view).map_err(anyhow::Error::from)?;
            sink.line(&line)?;
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(Written { count, left_out }),
        }
    }
}

/// The sidecar seals each page itself: no token leaves it in clear.
async fn sealed(client: &AdminClient, sink: &mut Sink, key: &str) -> Result<Written, Failure> {
    let export = uuid::Uuid::now_v7().to_string();
    let (mut after, mut count, mut part): (Option<String>, usize, u64) = (None, 0, 1);
    loop {
        let body = json!({"public_key": key, "export": export, "part": part});
        let from = after.map(|after| format!("&after={}", encoded(&after)));
        let from = from.unwrap_or_default();
        let path = format!("/api/merchants/export?limit={LARGEST_LIMIT}{from}");
        let body = body.to_string().into_bytes();
        let page: SealedPage = client.change(Method::POST, &path, body).await?;
        sink.line(&page.sealed)?;
        count += page.merchants;
        match page.next {
            Some(next) => after = Some(next),
            None => {
                let left_out = page.unreadable.unwrap_or_default();
                return Ok(Written { count, left_out });
            }
        }
        part += 1;
    }
}

/// Where an export is written.
enum Sink {
    File(PathBuf, BufWriter<File>),
    Stdout,
}

impl Sink {
    fn open(path: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::Stdout);
        };
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("{} can't be created", path.display()))?;
        Ok(Self::File(path, BufWriter::new(file)))
    }

    fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.bytes(line.as_bytes())?;
        self.bytes(b"\n")
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = match self {
            Self::File(_, file) => file.write_all(bytes),
            Self::Stdout => std::io::stdout().lock().write_all(bytes),
        };
        Ok(written.context("the export can't be written")?)
    }

    fn finish(self) -> Result<(), Failure> {
        let Self::File(path, file) = self else {
            return Ok(());
        };
        let mut file = file;
        let synced = file.flush().and_then(|()| file.get_ref().sync_all());
        let synced = synced.with_context(|| format!("{} can't be written", path.display()));
        if synced.is_err() {
            Self::File(path, file).discard();
        }
        Ok(synced?)
    }

    /// Half an export is worse than none.
    fn discard(self) {
        if let Self::File(path, file) = self {
            drop(file);
            if let Err(error) = std::fs::remove_file(&path) {
                output::complain(format!(
                    "{} stays, and isn't whole: {error}",
                    path.display()
                ));
            }
        }
    }
}

const AFTER: &str = "\
Without --with-tokens: JSON lines as `merchant list --json` shows them, a fingerprint for each token.
With it: one JWE a line (RFC 7516, RSA-OAEP-256 and A256GCM), which `merchant import FILE --key REF`
reads back, `merchant open-export` opens, and any JOSE library, too; inside are JSON lines as `merchant import` takes them.";
