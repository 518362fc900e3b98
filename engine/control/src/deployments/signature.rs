//! Signatures of messages: by the Standard Webhooks specification 1.0 (standardwebhooks.com), and of what comes in also as
//! GitHub signs.
//!
//! The standard signs `ID.TIME.BODY`: a message cannot be sent again under another id, nor later than [`TOLERANCE`]. GitHub signs
//! the body alone.

use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Headers of the standard.
pub const ID: &str = "webhook-id";
pub const TIME: &str = "webhook-timestamp";
pub const SIGNATURE: &str = "webhook-signature";
/// The header of GitHub, and those by which its deliveries, and those of others that sign alike, are told apart.
const HUB: &str = "x-hub-signature-256";
const HUB_DELIVERIES: [&str; 2] = ["x-github-delivery", "idempotency-key"];
/// How far the clock of a sender may be from ours, seconds.
const TOLERANCE: i64 = 300;
/// Longest id of a message.
const LONGEST_ID: usize = 200;
/// What stands before a key that is written in base64.
const ENCODED: &str = "whsec_";

/// Who has signed a message is who holds the secret.
pub struct Signed {
    /// What tells the message from others, where the sender says.
    pub id: Option<String>,
}

/// The signature of a message; `None` where the secret holds no key.
pub fn sign(secret: &str, id: &str, time: i64, body: &[u8]) -> Option<String> {
    let mac = mac(&key(secret)?, &[format!("{id}.{time}.").as_bytes(), body])?;
    Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

/// Whether headers say that a signature may be in them.
pub fn may_be_signed(headers: &HeaderMap) -> bool {
    headers.contains_key(SIGNATURE) || headers.contains_key(HUB)
}

/// Checks the signature of a message at `now`, in seconds, in a time that does not tell how much of it is right.
pub fn check(secret: &str, headers: &HeaderMap, body: &[u8], now: i64) -> Option<Signed> {
    let key = key(secret)?;
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(signatures) = header(SIGNATURE) {
        let (id, time) = (header(ID)?, header(TIME)?.parse::<i64>().ok()?);
        if id.is_empty() || id.len() > LONGEST_ID || now.checked_sub(time)?.abs() > TOLERANCE {
            return None;
        }
        // Whoever changes a key signs with both for a while.
        let mut signatures = signatures.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok());
        let signed = |signature: Vec<u8>| {
            let mac = mac(&key, &[format!("{id}.{time}.").as_bytes(), body]);
            mac.is_some_and(|mac| mac.verify_slice(&signature).is_ok())
        };
        return signatures.any(signed).then(|| Signed { id: Some(id.to_owned()) });
    }
    let signature = hex::decode(header(HUB)?.strip_prefix("sha256=")?).ok()?;
    mac(secret.as_bytes(), &[body])?.verify_slice(&signature).ok()?;
    let id = HUB_DELIVERIES.iter().find_map(|name| header(name)).filter(|id| id.len() <= LONGEST_ID);
    Some(Signed { id: id.map(str::to_owned) })
}

/// The key in a secret. One that is to be encoded and is not, or is empty, is none: nobody signs with that.
fn key(secret: &str) -> Option<Vec<u8>> {
    let key = match secret.strip_prefix(ENCODED) {
        Some(encoded) => STANDARD.decode(encoded).ok()?,
        None => secret.as_bytes().to_vec(),
    };
    Some(key).filter(|key| !key.is_empty())
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    parts.iter().for_each(|part| mac.update(part));
    Some(mac)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn headers(headers: &[(&'static str, &str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    /// The example that the libraries of the standard are tested with.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const MESSAGE: (&str, i64, &[u8]) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
    const SIGNED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn messages_are_signed_as_the_standard_says() {
        let (id, time, body) = MESSAGE;
        assert_eq!(sign(SECRET, id, time, body).unwrap(), SIGNED);
        for none in ["", "whsec_", "whsec_no base64"] {
            assert_eq!(sign(none, id, time, body), None, "{none:?} holds no key");
        }
        let checked = |secret: &str, id: &str, time: i64, body: &[u8], signature: &str, now: i64| {
            let headers = headers(&[(ID, id), (TIME, &time.to_string()), (SIGNATURE, signature)]);
            check(secret, &headers, body, now).map(|signed| signed.id.unwrap())
        };
        for now in [time, time + TOLERANCE, time - TOLERANCE] {
            assert_eq!(checked(SECRET, id, time, body, SIGNED, now).as_deref(), Some(id));
        }
        let both = format!("v1,AAAA v2,{} {SIGNED}", &SIGNED[3..]);
        assert!(checked(SECRET, id, time, body, &both, time).is_some());
        for (name, refused) in [
            ("another secret", checked("whsec_AAAA", id, time, body, SIGNED, time)),
            ("no secret", checked("", id, time, body, SIGNED, time)),
            ("another id", checked(SECRET, "msg_2", time, body, SIGNED, time)),
            ("another time", checked(SECRET, id, time + 1, body, SIGNED, time)),
            ("another body", checked(SECRET, id, time, b"{}", SIGNED, time)),
            ("too late", checked(SECRET, id, time, body, SIGNED, time + TOLERANCE + 1)),
            ("too early", checked(SECRET, id, time, body, SIGNED, time - TOLERANCE - 1)),
            ("another version", checked(SECRET, id, time, body, &SIGNED.replace("v1", "v1a"), time)),
            ("cut off", checked(SECRET, id, time, body, &SIGNED[..SIGNED.len() - 4], time)),
            ("nothing", checked(SECRET, id, time, body, "", time)),
            ("a time far away", checked(SECRET, id, i64::MIN, body, SIGNED, time)),
        ] {
            assert!(refused.is_none(), "{name}");
        }
        let without = |name: &str| {
            let mut headers = headers(&[(ID, id), (TIME, &time.to_string()), (SIGNATURE, SIGNED)]);
            headers.remove(name);
            check(SECRET, &headers, body, time).is_none()
        };
        assert!(without(ID) && without(TIME) && without(SIGNATURE));
    }

    #[test]
    fn bodies_are_signed_as_rfc_4231_says() {
        // Test case 2.
        let body = b"what do ya want for nothing?";
        let signed = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let checked = |secret: &str, body: &[u8], signature: &str| {
            check(secret, &headers(&[(HUB, signature), ("x-github-delivery", "d1")]), body, 0)
        };
        assert_eq!(checked("Jefe", body, signed).unwrap().id.as_deref(), Some("d1"));
        for (secret, body, signature) in [
            ("jefe", &body[..], signed),
            ("Jefe", b"what do ya want for nothing!", signed),
            ("Jefe", body, ""),
            ("Jefe", body, "sha256="),
            ("Jefe", body, &signed[..70]),
            ("Jefe", body, &signed.replace("5b", "5c")),
            ("Jefe", body, &signed.replace("5b", "+b")),
        ] {
            assert!(checked(secret, body, signature).is_none(), "{signature}");
        }
    }
}
