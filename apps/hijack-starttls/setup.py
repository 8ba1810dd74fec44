from setuptools import setup

setup(
    name="muxwsgi-starttls",
    version="0.1.0",
    description="TLS for PostgreSQL and SMTP clients, which ask for it in plain text, as hijackers for muxwsgi",
    python_requires=">=3.11",
    packages=["muxwsgi_starttls"],
    package_data={"muxwsgi_starttls": ["py.typed"]},
    install_requires=["muxwsgi"],
    entry_points={
        "muxwsgi.hijack": [
            "postgresql-tls = muxwsgi_starttls.postgresql:postgresql_tls",
            "smtp-starttls = muxwsgi_starttls.smtp:SMTPStartTLS",
        ]
    },
)
