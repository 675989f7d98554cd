//! What libvirt and QEMU's tools read: the file that names this daemon, and what it says of itself.

/// What `--print-capabilities` prints. The features are named in QEMU's `vhost-user.json`.
pub const CAPABILITIES: &str = r#"{
  "type": "fs",
  "features": [
    "migrate-precopy",
    "posix-acl-negotiation-mode",
    "security-label-negotiation-mode",
    "separate-options"
  ]
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    /// To be installed as `/usr/share/qemu/vhost-user/50-fusewire.json`.
    const FILE: &str = include_str!("../../../../share/vhost-user/50-fusewire.json");

    #[test]
    fn the_file_says_what_the_program_says() {
        let file: serde_json::Value = serde_json::from_str(FILE).expect("JSON");
        let said: serde_json::Value = serde_json::from_str(CAPABILITIES).expect("JSON");
        assert_eq!((&file["type"], &file["features"]), (&said["type"], &said["features"]));
        assert_eq!(said["type"], "fs");
        let path = std::path::Path::new(file["binary"].as_str().expect("a path"));
        assert!(path.is_absolute() && file["description"].is_string());
    }
}
