//! A port where nobody is, and nobody else can come to be.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port of the loopback interface that is taken and not listened on: whoever connects is refused, as long as this lives.
pub struct Closed {
    address: SocketAddr,
    _taken: Socket,
}

impl Closed {
    /// Takes a port.
    ///
    /// # Panics
    /// When none is free.
    pub fn take() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("its address");
        Self { address, _taken: socket }
    }

    /// Address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
