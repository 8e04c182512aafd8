//! A signed v2 request laid out for the wire, the app or the browser.

use super::{charset::Charset, params::Params};

/// Lays a signed request out.
#[derive(Clone, Debug)]
pub struct SignedParams {
    _params: Params,
}

#[expect(missing_docs, reason = "skeleton")]
impl SignedParams {
    pub fn new(_params: Params, _sign: String) -> Self {
        unimplemented!()
    }
    pub fn in_charset(self, _charset: Charset) -> Self {
        unimplemented!()
    }
    pub fn query(&self) -> String {
        unimplemented!()
    }
    pub fn body(&self) -> String {
        unimplemented!()
    }
    pub fn order_string(&self) -> String {
        unimplemented!()
    }
    pub fn page_url(&self, _gateway: &str) -> String {
        unimplemented!()
    }
    pub fn page_form(&self, _gateway: &str) -> String {
        unimplemented!()
    }
}
