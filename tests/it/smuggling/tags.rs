//! What names a merchant, at the proxy; the webhook reads none of it.

use super::case::Expected::{Closed, One, Refused};
use super::case::{Case, apart, both};

// A table: one message a line.
#[rustfmt::skip]
pub(super) const CASES: &[Case] = &[
    apart("a tag twice", "{post}Alipay-Merchant: shop\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("two tags", "{post}Alipay-Merchant: other\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("a tag and an empty one", "{post}Alipay-Merchant:\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("tags in a list", "POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {type}\r\nAlipay-Merchant: shop, other\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("a tag in the path beside the one in the head", "POST /m/other{target} HTTP/1.1\r\nHost: {host}\r\n{tag}Content-Length: {len}\r\n\r\n{body}", Refused, Refused),
    apart("the app's own name in the path", "POST /m/self{target} HTTP/1.1\r\nHost: {host}\r\n{tag}Content-Length: {len}\r\n\r\n{body}", Refused, Refused),
    apart("a tag with an underscore", "{post}Alipay_Merchant: other\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("an app with an underscore", "{post}Alipay_App: 2021000000000002\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("two apps", "{post}Alipay-App: 2021000000000001\r\nAlipay-App: 2021000000000001\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("two users", "{post}Alipay-User: 1\r\nAlipay-User: 1\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("two deadlines", "{post}Alipay-Timeout: 4s\r\nAlipay-Timeout: 4s\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    both("two names of the request", "{post}X-Request-Id: a\r\nX-Request-Id: b\r\nContent-Length: {len}\r\n\r\n{body}", One),
    both("a tag whose name has a space", "{post}Alipay-Merchant : other\r\nContent-Length: {len}\r\n\r\n{body}{evil}", Closed),
    both("a tag on a folded line", "{post}X: y\r\n Alipay-Merchant: other\r\nContent-Length: {len}\r\n\r\n{body}{evil}", Closed),
    both("a tag behind a bare CR", "{post}X: y\rAlipay-Merchant: other\r\nContent-Length: {len}\r\n\r\n{body}{evil}", Closed),
    both("a tag behind a NUL", "{post}X: y\0Alipay-Merchant: other\r\nContent-Length: {len}\r\n\r\n{body}{evil}", Closed),
    apart("`Connection` names the tag", "{post}Connection: Alipay-Merchant\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("`Connection` names the app", "{post}Connection: keep-alive, alipay-app\r\nAlipay-App: 2021000000000001\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("`Connection` names a tag that isn't there", "{post}Connection: Alipay-User\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("a web page's origin", "{post}Origin: https://x.example\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("a web page's origin, named in `Connection`", "{post}Connection: Origin\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("what browsers fetch", "{post}Sec-Fetch-Site: same-origin\r\nContent-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("a foreign host", "POST {target} HTTP/1.1\r\nHost: x.example\r\n{tag}Content-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("a foreign host that begins like ours", "POST {target} HTTP/1.1\r\nHost: 127.0.0.1.x.example\r\n{tag}Content-Length: {len}\r\n\r\n{body}", Refused, One),
    apart("a foreign host that ends like ours", "POST {target} HTTP/1.1\r\nHost: x.localhost\r\n{tag}Content-Length: {len}\r\n\r\n{body}", Refused, One),
];
