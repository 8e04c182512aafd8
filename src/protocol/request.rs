//! A signed v2 request laid out for the gateway, for the app or for the browser.

use super::{
    charset::Charset,
    error::ProtocolError,
    form,
    params::{Params, name},
    sign_content,
};

/// Lays a signed request out. The same signature serves every shape.
///
/// `Debug` shows names alone.
#[derive(Clone, Debug)]
pub struct SignedParams {
    params: Params,
    charset: Charset,
}

impl SignedParams {
    /// Takes the parameters that were signed and their signature in base64. Empty ones, which the
    /// signature doesn't cover, are dropped here too.
    #[must_use]
    pub fn new(params: Params, sign: String) -> Self {
        let mut params = params.without_empty();
        params.set(name::SIGN, sign);
        Self {
            params,
            charset: Charset::Utf8,
        }
    }

    /// Gives the text that was signed.
    #[must_use]
    pub fn sign_content(&self) -> String {
        sign_content::v2_request(&self.params)
    }

    /// Writes in this charset, which must be the one that the sign content was encoded in.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::ParameterCharacterMissing`] where the charset lacks a character.
    pub fn in_charset(self, charset: Charset) -> Result<Self, ProtocolError> {
        self.params.check_writable(charset)?;
        Ok(Self { charset, ..self })
    }

    /// Writes the query of the gateway URL: the common parameters, `charset` and `app_auth_token`
    /// among them.
    ///
    /// Protocol: 公共参数. The gateway merges query and body, but reads `charset` from the query
    /// alone to decode everything else.
    #[must_use]
    pub fn query(&self) -> String {
        self.write(|key, _| is_common(key))
    }

    /// Writes the form body: `biz_content` and the API's own parameters.
    #[must_use]
    pub fn body(&self) -> String {
        self.write(|key, _| !is_common(key))
    }

    /// Gives the parameters that stand in the body, for an upload to write as parts.
    pub fn body_parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.params.iter().filter(|(key, _)| !is_common(key))
    }

    /// Writes everything as the order string that the app SDK takes (`sdkExecute`).
    #[must_use]
    pub fn order_string(&self) -> String {
        self.write(|_, _| true)
    }

    /// Writes the address that a browser may be sent to (`pageExecute` with GET).
    #[must_use]
    pub fn page_url(&self, gateway: &str) -> String {
        format!("{gateway}?{}", self.order_string())
    }

    /// Writes an HTML form that submits itself (`pageExecute` with POST).
    ///
    /// The action holds the common parameters, hidden fields the rest. Unlike the SDKs' forms,
    /// names, values and action are fully escaped, so that text from a user can't break out of an
    /// attribute, and `accept-charset` frees the signature from the page's own charset.
    #[must_use]
    pub fn page_form(&self, gateway: &str) -> String {
        let is_field = |key: &str, value: &str| {
            is_field(key, value) && self.charset.is_written_alike_by_browsers(value)
        };
        let action = self.write(|key, value| !is_field(key, value));
        let mut html = format!(
            "<form name=\"punchout_form\" method=\"post\" accept-charset=\"{}\" action=\"{}\">\n",
            self.charset.label(),
            escape_html(&format!("{gateway}?{action}")),
        );
        for (key, value) in self
            .params
            .iter()
            .filter(|&(key, value)| is_field(key, value))
        {
            html.push_str(&format!(
                "<input type=\"hidden\" name=\"{}\" value=\"{}\">\n",
                escape_html(key),
                escape_html(value),
            ));
        }
        html.push_str(FORM_END);
        html
    }

    fn write(&self, wanted: impl Fn(&str, &str) -> bool) -> String {
        let pairs = self
            .params
            .iter()
            .filter(|&(key, value)| wanted(key, value));
        form::join(pairs, self.charset)
            .expect("UTF-8 has every character, and `in_charset` encoded the same texts")
    }
}

/// Tells whether a parameter goes into the query.
fn is_common(key: &str) -> bool {
    COMMON.contains(&key)
}

/// Tells whether a browser sends a hidden field's value unchanged: it rewrites line breaks to CRLF
/// and drops NUL, fills `_charset_` itself, and a field called `submit` hides the form's method of
/// that name. Such parameters stay in the action.
fn is_field(key: &str, value: &str) -> bool {
    let is_special = key.eq_ignore_ascii_case("_charset_") || key == "submit";
    !is_common(key) && !is_special && !key.chars().chain(value.chars()).any(char::is_control)
}

fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

const FORM_END: &str = "<input type=\"submit\" value=\"立即支付\" style=\"display:none\">\n</form>\n\
                        <script>document.forms[0].submit();</script>";

const COMMON: [&str; 21] = [
    name::ALIPAY_ROOT_CERT_SN,
    name::ALIPAY_SDK,
    name::APP_AUTH_TOKEN,
    name::APP_CERT_SN,
    name::APP_ID,
    name::AUTH_TOKEN,
    name::CHARSET,
    name::ENCRYPT_TYPE,
    name::FORMAT,
    name::METHOD,
    name::NOTIFY_URL,
    name::PROD_CODE,
    name::RETURN_URL,
    name::SIGN,
    name::SIGN_TYPE,
    name::TARGET_APP_ID,
    name::TERMINAL_INFO,
    name::TERMINAL_TYPE,
    name::TIMESTAMP,
    name::VERSION,
    name::WS_SERVICE_URL,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signed(form: &str) -> SignedParams {
        let params = Params::from_form(form.as_bytes(), Charset::Utf8).unwrap();
        SignedParams::new(params, "a+b/c=".to_owned())
    }

    #[test]
    fn common_parameters_go_into_the_query_and_the_rest_into_the_body() {
        let request = signed("app_id=1&biz_content=%7B%22a%22:1%7D&app_auth_token=t&code=c+d");
        assert_eq!(
            request.query(),
            "app_id=1&app_auth_token=t&sign=a%2Bb%2Fc%3D"
        );
        assert_eq!(request.body(), "biz_content=%7B%22a%22%3A1%7D&code=c%20d");
        assert_eq!(
            request.page_url("https://gateway/x.do"),
            format!("https://gateway/x.do?{}", request.order_string())
        );
    }

    #[test]
    fn nothing_breaks_out_of_a_form() {
        let request = signed(
            "app_id=1&notify_url=http://x/?a%26b=%27&biz_content=%22%3E%3Cscript%3E%27%26amp;",
        );
        let form = request.page_form("https://gateway/x.do");
        assert!(
            form.contains("value=\"&quot;&gt;&lt;script&gt;&#39;&amp;amp;\""),
            "{form}"
        );
        assert!(
            form.contains("x.do?app_id=1&amp;notify_url=http%3A%2F%2Fx%2F%3Fa%26b%3D%27&amp;sign="),
            "{form}"
        );
    }

    #[test]
    fn what_a_browser_would_rewrite_stays_out_of_the_fields() {
        let form = signed("biz_content=%7B%0A%7D&_charset_=x&submit=y&z=1").page_form("g");
        assert!(
            form.contains("g?biz_content=%7B%0A%7D&amp;_charset_=x&amp;submit=y&amp;sign="),
            "{form}"
        );
        assert_eq!(form.matches("type=\"hidden\"").count(), 1, "{form}");
    }

    #[test]
    fn in_gbk_every_shape_is_gbk_and_what_it_lacks_is_refused() {
        let request = signed("app_id=1&subject=中&price=€")
            .in_charset(Charset::Gbk)
            .unwrap();
        assert_eq!(request.body(), "subject=%D6%D0&price=%A2%E3");
        let form = request.page_form("g");
        assert!(form.contains("accept-charset=\"GBK\""), "{form}");
        assert!(form.contains("value=\"中\""), "{form}");
        assert!(
            form.contains("price=%A2%E3"),
            "a browser would write 80: {form}"
        );
        let refused = signed("a=😀").in_charset(Charset::Gbk).unwrap_err();
        assert_eq!(refused.kind(), "character-missing");
    }

    proptest! {
        #[test]
        fn every_shape_holds_every_parameter(
            pairs in proptest::collection::btree_map("[a-z_]{1,9}", ".{0,9}", 0..9),
        ) {
            let mut params = Params::new();
            for (key, value) in &pairs {
                params.push(key, value).unwrap();
            }
            let request = SignedParams::new(params, "s".to_owned());
            let split = format!("{}&{}", request.query(), request.body());
            for text in [split, request.order_string()] {
                let read = Params::from_form(text.as_bytes(), Charset::Utf8).unwrap();
                prop_assert_eq!(read.len(), request.params.len());
                for (key, value) in request.params.iter() {
                    prop_assert_eq!(read.get(key), Some(value));
                }
            }
        }
    }
}
