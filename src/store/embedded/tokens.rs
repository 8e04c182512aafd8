//! Whose a token is: every one that a merchant has held, too.

use super::apply::Applier;
use super::fault::Fault;
use super::lookup::{self, MerchantId, token_place};
use super::tables;
use crate::protocol::secret::Secret;

impl Applier<'_> {
    /// Notes that `id` holds a token, if nobody does yet.
    pub(super) fn put_token(
        &mut self,
        id: &MerchantId,
        token: &Secret<String>,
    ) -> Result<(), Fault> {
        let digest = self.sealer.token_digest(token);
        match lookup::token_owner(self.tables.by_token.table()?, self.sealer, &digest) {
            Ok(Some(_)) => return Ok(()),
            // Damaged: it is written anew.
            Ok(None) | Err(Fault::Refused(_)) => {}
            Err(broken) => return Err(broken),
        }
        let sealed = self.sealer.seal(token_place(&digest), &id.key())?;
        self.tables.by_token.insert(&digest, sealed.as_slice())?;
        let mut held = tokens_prefix(id);
        held.extend(digest);
        self.tables.tokens_of.insert(held.as_slice(), ())?;
        Ok(())
    }

    /// Forgets every token that `id` holds.
    pub(super) fn remove_tokens(&mut self, id: &MerchantId) -> Result<(), Fault> {
        let prefix = tokens_prefix(id);
        let mut held = Vec::new();
        for row in self.tables.tokens_of.range(prefix.as_slice()..)? {
            let (key, ()) = (row?.0, ());
            let Some(digest) = key.value().strip_prefix(prefix.as_slice()) else {
                break;
            };
            held.push((key.value().to_vec(), digest.to_vec()));
        }
        for (key, digest) in held {
            self.tables.tokens_of.remove(key.as_slice())?;
            let Ok(digest) = <[u8; 32]>::try_from(digest) else {
                continue;
            };
            // `tokens_of` isn't sealed: whose token it is, the sealed row says.
            let owner = lookup::token_owner(self.tables.by_token.table()?, self.sealer, &digest);
            match owner {
                Ok(Some(owner)) if owner != *id => {}
                Err(broken @ Fault::Broken { .. }) => return Err(broken),
                _ => drop(self.tables.by_token.remove(&digest)?),
            }
        }
        Ok(())
    }
}

fn tokens_prefix(id: &MerchantId) -> Vec<u8> {
    tables::prefix(&[id.app_id.as_str(), id.auth_app_id.as_str()])
}
