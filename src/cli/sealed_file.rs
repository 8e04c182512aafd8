//! Reading a sealed export part by part, none missing, none moved, none of another export.

use std::fs::File;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use zeroize::Zeroizing;

use crate::admin::sealing::{Opener, PartHeader};
use crate::cli::failure::Failure;

/// A file of `merchant export --with-tokens`.
pub(crate) struct SealedFile<'a> {
    path: PathBuf,
    lines: Lines<BufReader<File>>,
    opener: &'a Opener,
    parts: Parts,
}

/// One line, open.
pub(crate) struct OpenedPart {
    /// Counted from 1.
    pub(crate) number: u64,
    /// JSON lines with tokens.
    pub(crate) plain: Zeroizing<Vec<u8>>,
}

impl<'a> SealedFile<'a> {
    pub(crate) fn open(path: &Path, opener: &'a Opener) -> Result<Self, Failure> {
        let file = File::open(path).with_context(|| format!("{} can't be read", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            lines: BufReader::new(file).lines(),
            opener,
            parts: Parts::default(),
        })
    }

    /// How many parts were read.
    pub(crate) fn parts(&self) -> u64 {
        self.parts.seen
    }

    /// The next part with its number; `None` behind the last, and a failure where the last is
    /// missing.
    pub(crate) fn read(&mut self) -> Result<Option<OpenedPart>, Failure> {
        let Some(line) = self.lines.next() else {
            return self.parts.finish().map(|()| None);
        };
        let line = line.with_context(|| format!("{} can't be read", self.path.display()))?;
        let number = self.parts.seen + 1;
        let opened = self.opener.open(&line);
        let (header, plain) = opened.with_context(|| format!("line {number}"))?;
        self.parts.follow(&header)?;
        Ok(Some(OpenedPart { number, plain }))
    }
}

/// The lines of one export, none missing, none moved.
#[derive(Default)]
struct Parts {
    export: Option<String>,
    seen: u64,
    ended: bool,
}

impl Parts {
    fn follow(&mut self, header: &PartHeader) -> Result<(), Failure> {
        let number = self.seen + 1;
        let export = self.export.get_or_insert_with(|| header.export.clone());
        if *export != header.export {
            return Err(
                anyhow!("line {number} is of another export; nothing of it fits here").into(),
            );
        }
        if self.ended {
            return Err(anyhow!("line {number} stands behind the export's last").into());
        }
        if header.part != number {
            let found = header.part;
            return Err(
                anyhow!("line {number} is part {found}; a line is missing, or moved").into(),
            );
        }
        self.seen = number;
        self.ended = header.last;
        Ok(())
    }

    fn finish(&self) -> Result<(), Failure> {
        match self.ended {
            true => Ok(()),
            false => {
                let seen = self.seen;
                Err(
                    anyhow!("the file ends after part {seen}, which isn't the export's last")
                        .into(),
                )
            }
        }
    }
}
