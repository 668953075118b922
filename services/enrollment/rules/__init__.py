"""Who may register (people), apply and decide (applications), and from when is one covered (coverage)?"""
