//! By which algorithm the caller of `/gateway.do` verifies what is signed anew
//! (`proxy.reply_signature = "local"`), an error above all: the one that it names, once that was read;
//! else its app's, once that is known; else RSA2.

use std::sync::OnceLock;

use http::request::Parts;

use crate::protocol::params::{self, name};
use crate::protocol::signature::SignType;
use crate::proxy::local_call::{Sent, single};
use crate::proxy::resolve::Resolver;

/// What is known of it so far.
#[derive(Debug, Default)]
pub(super) struct DueSignType {
    named: Option<SignType>,
    of_app: OnceLock<SignType>,
}

impl DueSignType {
    /// Looks at the head of a request, whatever else is wrong with it.
    pub(super) fn read_head(&mut self, resolver: &Resolver, head: &Parts) {
        let header = single(&head.headers, "alipay-app").unwrap_or_default();
        if let Ok(app) = resolver.app_of_header(header.as_deref()) {
            self.is_of(app.sign_type);
        }
        let query = head.uri.query().unwrap_or_default().as_bytes();
        self.read(resolver, |name| params::peek(query, name));
    }

    /// Looks at what was sent, whatever else is wrong with it.
    pub(super) fn read_sent(&mut self, resolver: &Resolver, sent: &Sent) {
        match sent {
            Sent::Plain(form) => self.read(resolver, |name| params::peek(form, name)),
            Sent::Upload(upload) => self.read(resolver, |name| {
                let mut texts = upload.parameters.iter();
                let found = texts.find(|(text, _)| text.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_owned())
            }),
        }
    }

    fn read(&mut self, resolver: &Resolver, get: impl Fn(&str) -> Option<String>) {
        let named = || get(name::SIGN_TYPE)?.parse().ok();
        self.named = self.named.or_else(named);
        if let Some(app) = get(name::APP_ID).and_then(|app_id| resolver.app(&app_id)) {
            self.is_of(app.sign_type);
        }
    }

    /// The app is known, unless another was before.
    pub(super) fn is_of(&self, sign_type: SignType) {
        let _ = self.of_app.set(sign_type);
    }

    pub(super) fn get(&self) -> SignType {
        let of_app = || self.of_app.get().copied();
        self.named.or_else(of_app).unwrap_or(SignType::Rsa2)
    }
}
