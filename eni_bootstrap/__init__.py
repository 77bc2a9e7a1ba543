"""Every elastic network interface of an Alibaba Cloud ECS instance answers by itself."""

__version__ = "0.1.0"
