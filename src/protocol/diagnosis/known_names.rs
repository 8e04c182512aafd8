//! The parameter names that Alipay itself uses, as far as they are documented.

/// Tells whether a name is one of Alipay's; names with their prefixes count, too.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

const PREFIXES: [&str; 4] = ["alipay_", "gmt_", "notify_", "terminal_"];

/// Protocol: 公共参数; 异步通知, “通知参数”; 应用网关; “From Ant” messages; SPI.
const KNOWN: [&str; 102] = [
    "agreement_no",
    "amount",
    "app_auth_token",
    "app_cert_sn",
    "app_id",
    "auth_app_id",
    "auth_no",
    "auth_token",
    "biz_app_id",
    "biz_content",
    "body",
    "buyer_id",
    "buyer_logon_id",
    "buyer_open_id",
    "buyer_pay_amount",
    "buyer_user_name",
    "buyer_user_type",
    "card_balance",
    "charge_amount",
    "charge_flags",
    "charset",
    "code",
    "credit_amount",
    "credit_biz_order_id",
    "discount_amount",
    "discount_goods_detail",
    "encrypt_type",
    "external_agreement_no",
    "external_logon_id",
    "extra_param",
    "format",
    "fund_bill_list",
    "fund_amount",
    "grant_type",
    "hb_fq_pay_info",
    "image_content",
    "image_name",
    "image_pid",
    "image_type",
    "industry_sepc_detail",
    "invalid_time",
    "invoice_amount",
    "invoke_app_id",
    "login_token",
    "mdiscount_amount",
    "merchant_app_id",
    "method",
    "msg_app_id",
    "msg_id",
    "msg_method",
    "msg_type",
    "msg_uid",
    "next_deduct_time",
    "open_id",
    "operation_id",
    "operation_type",
    "origin_interface_name",
    "out_biz_no",
    "out_order_no",
    "out_request_no",
    "out_trade_no",
    "partner_id",
    "passback_params",
    "pay_currency",
    "payee_logon_id",
    "payee_user_id",
    "payer_logon_id",
    "payer_open_id",
    "payer_user_id",
    "personal_product_code",
    "pid",
    "point_amount",
    "prod_code",
    "product_code",
    "receipt_amount",
    "refresh_token",
    "refund_fee",
    "refund_status",
    "rest_amount",
    "return_url",
    "scene",
    "seller_email",
    "seller_id",
    "service",
    "settle_currency",
    "sign",
    "sign_scene",
    "sign_time",
    "sign_type",
    "status",
    "subject",
    "target_app_id",
    "timestamp",
    "total_amount",
    "total_freeze_amount",
    "total_pay_amount",
    "trade_no",
    "trade_status",
    "utc_timestamp",
    "valid_time",
    "vouchers_detail_list",
    "version",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alipays_names_are_known_and_others_are_not() {
        for known in [
            "app_id",
            "notify_id",
            "alipay_sdk",
            "biz_content",
            "gmt_payment",
        ] {
            assert!(is_known(known), "{known}");
        }
        for other in ["utm_source", "from", "s", "route", ""] {
            assert!(!is_known(other), "{other}");
        }
    }
}
