//! QEMU's own protocol: a command, and what it returns, in lines of JSON.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

/// How long QEMU may take to be there, and to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A QEMU that takes commands.
pub struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// The words for QEMU's command line.
    pub fn words(socket: &Path) -> [String; 2] {
        ["-qmp".into(), format!("unix:{},server=on,wait=off", socket.display())]
    }

    /// Connect to one that was started with these words.
    pub fn connect(socket: &Path) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(error).context("QEMU takes no commands"),
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Self(BufReader::new(stream));
        qmp.read()?;
        qmp.command("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line).context("QEMU does not answer")? {
            0 => bail!("QEMU has ended"),
            _ => serde_json::from_str(&line).with_context(|| format!("QEMU said {line:?}")),
        }
    }

    /// What QEMU returns to a command. What it tells of its own accord is not looked at.
    pub fn command(&mut self, name: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "execute": name, "arguments": arguments });
        writeln!(self.0.get_mut(), "{line}").with_context(|| format!("QEMU is gone before {name}"))?;
        loop {
            let mut said = self.read().with_context(|| name.to_owned())?;
            if let Some(error) = said.get("error") {
                bail!("QEMU refuses {name}: {}", error["desc"].as_str().unwrap_or_default());
            }
            if said.get("return").is_some() {
                return Ok(said["return"].take());
            }
        }
    }
}
